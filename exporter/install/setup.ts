/** What all targets of `meshseal init` have in common: where the exporter is, which modules, and the filter's settings. */
export type Image = {
  /** `oci://registry/repository:tag`. */
  readonly reference: string;
  readonly manifestSha256: string;
  readonly moduleSha256: string;
};

export type Setup = {
  readonly plain: Image;
  /** The build that can refuse requests: where `enforced` is, since its callback costs every request. */
  readonly enforcing: Image;
  /** Routes ask for `enforced` by their metadata: the enforcing build everywhere. */
  readonly routesEnforce: boolean;
  readonly exporterNamespace: string;
  /** Name of the exporter's Service. */
  readonly service: string;
  readonly port: number;
  readonly delivery: string;
  readonly pullSecret?: string;
  /** Environment variable of the proxy that holds the key of batches. */
  readonly keyVariable?: string;
};

export function serviceHost({
  service,
  exporterNamespace,
}: Pick<Setup, "service" | "exporterNamespace">): string {
  return `${service}.${exporterNamespace}.svc.cluster.local`;
}

export function imageFor(setup: Setup, delivery: string): Image {
  return delivery === "enforced" || setup.routesEnforce ? setup.enforcing : setup.plain;
}

/** The filter's JSON settings as pairs of key and JSON value, in a fixed order. */
export function pluginSettings(
  setup: Setup,
  cluster: string,
  delivery: string,
): [string, string][] {
  return [
    ["cluster", JSON.stringify(cluster)],
    ["authority", JSON.stringify(`${setup.service}.${setup.exporterNamespace}`)],
    ["delivery", JSON.stringify(delivery)],
    ["moduleDigest", JSON.stringify(imageFor(setup, delivery).moduleSha256)],
  ];
}
