/** A build for tests only: the plain filter, and a trap in on_log for a request with the path /trap. */
import "../../filter/abort";
import * as host from "../../filter/host";
import { Text } from "../../filter/host";
import * as plugin from "../../filter/plugin";

export {
  proxy_abi_version_0_2_1,
  proxy_on_configure,
  proxy_on_done,
  proxy_on_http_call_response,
  proxy_on_memory_allocate,
  proxy_on_tick,
  proxy_on_vm_start,
} from "../../filter/plugin";

const PATH = new Text("request\0url_path");
const TRAP = new Text("/trap/0");

export function proxy_on_log(context: u32): void {
  host.begin();
  if (host.property(PATH.at, PATH.bytes) && host.isText(host.data, host.size, TRAP)) unreachable();
  plugin.proxy_on_log(context);
}
