/** How serving begins in the log itself: the exporter's chain is opened, says which keys sign from here on, and a checkpoint covers that. */
import type { OwnChain } from "../intake/own-chain.ts";
import { noteKeys, pendingStatement } from "../keys.ts";
import { VERSION } from "../version.ts";
import type { ServedLog } from "./log.ts";

export async function sayStart(served: ServedLog, own: OwnChain): Promise<void> {
  const { data, logger, log } = served;
  const { key } = served.place;
  await own.open(`meshseal-exporter/${VERSION}`);
  const statement = pendingStatement(data, key);
  if (statement !== null) {
    const vkeys = key.signers.map(({ vkey }) => vkey);
    await own.keys(vkeys, statement);
    logger.info({ vkeys }, "these keys sign from here on");
  }
  noteKeys(data, key, log.size, new Date());
  await log.publish();
}
