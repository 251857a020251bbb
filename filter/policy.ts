/** Who allowed or denied a request: from Envoy's reason for the status, and from what RBAC, jwt_authn and ext_authz leave in the metadata. */
import {
  DECISION_ALLOWED,
  DECISION_DENIED,
  DECISION_ERROR,
  DECISION_NOTHING_ALLOWED,
  ENGINE_CSRF,
  ENGINE_EXT_AUTHZ,
  ENGINE_FAULT,
  ENGINE_JWT,
  ENGINE_MESHSEAL,
  ENGINE_RATE_LIMIT,
  ENGINE_RBAC,
  F_ALLOWED_BY,
  F_AUDIT,
  F_DECISION,
  F_DENIED_BY,
  F_POLICY,
  F_POLICY_RULE,
  F_SHADOW,
  MAX_NAME,
  MAX_SHADOWS,
} from "../record/fields";
import { noteCut, putBytes, putUint } from "./entry";
import { allocate, Text } from "./host";
import { Entries, TEXT } from "./message";
import * as metadata from "./metadata";

/** How Envoy's reason for a status begins, who gave it, and what it decided. */
class Reason {
  text: Text;
  engine: u32;
  decision: u32;
  constructor(text: string, engine: u32, decision: u32) {
    this.text = new Text(text);
    this.engine = engine;
    this.decision = decision;
  }
}

// Envoy: the filters under source/extensions/filters/http.
const REASONS: StaticArray<Reason> = [
  new Reason("rbac_access_denied_matched_policy[", ENGINE_RBAC, DECISION_DENIED),
  new Reason("ext_authz_denied", ENGINE_EXT_AUTHZ, DECISION_DENIED),
  new Reason("ext_authz_error", ENGINE_EXT_AUTHZ, DECISION_ERROR),
  new Reason("jwt_authn_access_denied", ENGINE_JWT, DECISION_DENIED),
  new Reason("request_rate_limited", ENGINE_RATE_LIMIT, DECISION_DENIED),
  new Reason("local_rate_limited", ENGINE_RATE_LIMIT, DECISION_DENIED),
  new Reason("rate_limiter_error", ENGINE_RATE_LIMIT, DECISION_ERROR),
  new Reason("meshseal", ENGINE_MESHSEAL, DECISION_DENIED),
  new Reason("fault_filter_abort", ENGINE_FAULT, DECISION_DENIED),
  new Reason("csrf_origin_mismatch", ENGINE_CSRF, DECISION_DENIED),
];
const NONE = new Text("none");
const RULE = new Text("-rule[");

const ENFORCED_RESULT = new Text("enforced_engine_result");
const ENFORCED_POLICY = new Text("enforced_effective_policy_id");
const SHADOW_RESULT = new Text("shadow_engine_result");
const SHADOW_POLICY = new Text("shadow_effective_policy_id");
const ALLOWED = new Text("allowed");

/** What one RBAC filter left: each may have a prefix of its own, which its configuration gives. */
class Result {
  prefix: usize = 0;
  prefixBytes: usize = 0;
  result: usize = 0;
  resultBytes: usize = 0;
  policy: usize = 0;
  policyBytes: usize = 0;
}

class Results {
  list: StaticArray<Result> = new StaticArray<Result>(MAX_SHADOWS);
  count: u32 = 0;
  isOver: bool = false;
  constructor() {
    for (let i: u32 = 0; i < MAX_SHADOWS; i++) unchecked((this.list[i] = new Result()));
  }

  /** Returns the result with this prefix. In order of prefixes: the host's maps come in any order. */
  of(prefix: usize, bytes: usize): Result | null {
    let at: u32 = 0;
    for (; at < this.count; at++) {
      const one = unchecked(this.list[at]);
      const order = compare(one.prefix, one.prefixBytes, prefix, bytes);
      if (order === 0) return one;
      if (order > 0) break;
    }
    if (this.count === MAX_SHADOWS) {
      this.isOver = true;
      return null;
    }
    const fresh = unchecked(this.list[this.count]);
    for (let i = this.count; i > at; i--) unchecked((this.list[i] = this.list[i - 1]));
    unchecked((this.list[at] = fresh));
    this.count++;
    fresh.prefix = prefix;
    fresh.prefixBytes = bytes;
    fresh.resultBytes = 0;
    fresh.policyBytes = 0;
    return fresh;
  }
}

const ENFORCED = new Results();
const SHADOW = new Results();
const KEYS = new Entries();

function compare(a: usize, aBytes: usize, b: usize, bBytes: usize): i32 {
  const order = memory.compare(a, b, min(aBytes, bBytes));
  return order !== 0 ? order : (aBytes as i32) - (bBytes as i32);
}

function startsWith(at: usize, bytes: usize, text: Text): bool {
  return bytes >= (text.bytes as usize) && memory.compare(at, text.at, text.bytes) === 0;
}

function readRbac(): void {
  ENFORCED.count = 0;
  SHADOW.count = 0;
  ENFORCED.isOver = false;
  SHADOW.isOver = false;
  if (metadata.rbacBytes === 0) return;
  KEYS.begin(metadata.rbac, metadata.rbacBytes);
  while (KEYS.next()) {
    if (keep(ENFORCED, ENFORCED_RESULT, true) || keep(ENFORCED, ENFORCED_POLICY, false)) continue;
    if (!keep(SHADOW, SHADOW_RESULT, true)) keep(SHADOW, SHADOW_POLICY, false);
  }
}

/** Takes the current key up, if it ends in `suffix`. */
function keep(results: Results, suffix: Text, isResult: bool): bool {
  if (KEYS.keyBytes < (suffix.bytes as usize)) return false;
  const prefixBytes = KEYS.keyBytes - suffix.bytes;
  if (memory.compare(KEYS.key + prefixBytes, suffix.at, suffix.bytes) !== 0) return false;
  const one = results.of(KEYS.key, prefixBytes);
  if (one === null) return true;
  KEYS.open(TEXT);
  if (isResult) {
    one.result = KEYS.value;
    one.resultBytes = KEYS.valueBytes;
  } else {
    one.policy = KEYS.value;
    one.policyBytes = KEYS.valueBytes;
  }
  return true;
}

/** Writes the decision. `details` is Envoy's reason for the status. */
export function put(details: usize, bytes: u32): void {
  readRbac();
  for (let i = 0; i < REASONS.length; i++) {
    const reason = unchecked(REASONS[i]);
    if (startsWith(details, bytes, reason.text)) return putDenied(reason, details, bytes);
  }
  putAllowed();
}

function putDenied(reason: Reason, details: usize, bytes: u32): void {
  let decision = reason.decision;
  let policyBytes: u32 = 0;
  const policy = details + reason.text.bytes;
  if (reason.engine === ENGINE_RBAC && load<u8>(details + bytes - 1) === 0x5d) {
    policyBytes = bytes - reason.text.bytes - 1;
    if (policyBytes === NONE.bytes && startsWith(policy, policyBytes, NONE)) {
      decision = DECISION_NOTHING_ALLOWED;
      policyBytes = 0;
    }
  }
  putUint(F_DECISION, decision);
  putUint(F_DENIED_BY, reason.engine);
  putPolicy(policy, policyBytes);
  putShadow();
}

function putAllowed(): void {
  let policy: usize = 0;
  let policyBytes: usize = 0;
  let isRbac = false;
  for (let i: u32 = 0; i < ENFORCED.count; i++) {
    const one = unchecked(ENFORCED.list[i]);
    if (compare(one.result, one.resultBytes, ALLOWED.at, ALLOWED.bytes) !== 0) continue;
    isRbac = true;
    if (one.policyBytes === 0) continue;
    policy = one.policy;
    policyBytes = one.policyBytes;
  }
  if (isRbac || metadata.hasExtAuthz || metadata.isJwtVerified) {
    putUint(F_DECISION, DECISION_ALLOWED);
    if (isRbac) putUint(F_ALLOWED_BY, ENGINE_RBAC);
    if (metadata.hasExtAuthz) putUint(F_ALLOWED_BY, ENGINE_EXT_AUTHZ);
    if (metadata.isJwtVerified) putUint(F_ALLOWED_BY, ENGINE_JWT);
    putPolicy(policy, policyBytes as u32);
  }
  putShadow();
}

/** Writes a policy, and apart from it the rule, where the name ends as Istio's do: ns[..]-policy[..]-rule[n]. */
function putPolicy(at: usize, bytes: u32): void {
  if (bytes === 0) return;
  let digits: u32 = 0;
  let rule: u64 = 0;
  if (load<u8>(at + bytes - 1) === 0x5d) {
    let scale: u64 = 1;
    for (let i = bytes - 1; i > 0 && digits < 9; i--) {
      const c = load<u8>(at + i - 1);
      if (c < 0x30 || c > 0x39) break;
      rule += scale * (c - 0x30);
      scale *= 10;
      digits++;
    }
  }
  const tail = RULE.bytes + digits + 1;
  const isRule =
    digits > 0 && bytes > tail && memory.compare(at + bytes - tail, RULE.at, RULE.bytes) === 0;
  putBytes(F_POLICY, at, isRule ? bytes - tail : bytes, MAX_NAME);
  if (isRule) putUint(F_POLICY_RULE, rule);
}

function putShadow(): void {
  for (let i: u32 = 0; i < SHADOW.count; i++) {
    const one = unchecked(SHADOW.list[i]);
    const text = allocate(one.prefixBytes + one.resultBytes + one.policyBytes + 3);
    let to = append(text, one.prefix, one.prefixBytes);
    if (one.prefixBytes === 0) store<u8>(to++, 0x2d);
    store<u8>(to++, 0x20);
    to = append(to, one.result, one.resultBytes);
    if (one.policyBytes > 0) {
      store<u8>(to++, 0x20);
      to = append(to, one.policy, one.policyBytes);
    }
    putBytes(F_SHADOW, text, (to - text) as u32, MAX_NAME);
  }
  if (SHADOW.isOver) noteCut(F_SHADOW);
  if (metadata.isAudited) putUint(F_AUDIT, 1);
}

function append(to: usize, from: usize, bytes: usize): usize {
  memory.copy(to, from, bytes);
  return to + bytes;
}
