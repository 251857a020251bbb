export function findServer(
  name: "versitygw" | "minio" | "moto" | "fake-gcs-server" | "azurite",
): string;
