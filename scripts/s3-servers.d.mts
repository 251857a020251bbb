export function findServer(name: "versitygw" | "minio" | "moto"): string;
