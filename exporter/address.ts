/** Addresses as people write them: `host:port`, an IPv6 host in brackets. */
import type { AddressInfo } from "node:net";
import type { FastifyInstance } from "fastify";

const LOOPBACK = /^(127\.\d+\.\d+\.\d+|localhost|\[::1\])(:\d+)?$/;

/** Whether a host, with or without a port, is one that only this machine reaches. */
export function isLoopback(address: string): boolean {
  return LOOPBACK.test(address);
}

/** Returns where a server listens. */
export function addressOf({ server }: FastifyInstance): string {
  const { address, family, port } = server.address() as AddressInfo;
  return family === "IPv6" ? `[${address}]:${port}` : `${address}:${port}`;
}

/** Splits what `listen` says, already checked by config.ts. */
export function splitAddress(listen: string): { host: string; port: number } {
  const colon = listen.lastIndexOf(":");
  const host = listen.slice(0, colon).replaceAll(/[[\]]/g, "");
  return { host, port: Number(listen.slice(colon + 1)) };
}
