/**
 * SHA-256 (FIPS 180-4) of four messages at a time, one in each lane of a vector: the leaf hashes of a batch, and the node
 * hashes of a tile (RFC 6962, section 2.1). Compiled by asc into wasm-code.ts
 * (scripts/log-wasm.ts); hasher.ts and bundle-reader.ts lay out its memory.
 */

const LANES: usize = 4;
const BLOCK: usize = 64;
const HASH: usize = 32;
/** What is known of each entry's place, in bytes: as entries.as.ts writes it. */
const PLACE: usize = 48;

const K: StaticArray<u32> = [
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
  0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
  0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
  0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
  0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
  0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
  0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
  0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
];

/** K with each constant in all lanes, the message schedule of one block, and the state: vectors. */
const CONSTANTS: usize = memory.data(64 * 16, 16);
const SCHEDULE: usize = memory.data(64 * 16, 16);
const STATE: usize = memory.data(8 * 16, 16);
/** The one or two last blocks of each lane's message: what is left of it, and the padding. */
const TAILS: usize = memory.data(4 * 128, 16);
/** For each lane: where its message is, its whole blocks, all its blocks, where its hash goes. */
const LANE: usize = memory.data(4 * 16, 16);

/** Entries in a bundle, which are hashed in the order of their lengths in blocks: those beyond the last are alike here. */
const LENGTHS: u32 = 64;
const STARTS: usize = memory.data(64 * 4, 16);
const ORDER: usize = memory.data(256 * 4, 16);

for (let i: usize = 0; i < 64; i++) {
  v128.store(CONSTANTS + i * 16, i32x4.splat(unchecked(K[i as i32])));
}

/** Where the caller may put what is to be hashed. */
export function free(): usize {
  return (__heap_base + 15) & ~15;
}

/**
 * Hashes the leaves of `count` entries that stand at `from` behind `prefix` bytes each: 3 as in a batch (`uint16 length || 0x00 ||
 * bytes`), or 2 as in a bundle, where the last byte of the length becomes the leaf's 0x00. Writes the hashes one behind the other to `to`.
 */
export function leaves(from: usize, count: u32, prefix: usize, to: usize): void {
  let at = from;
  let out = to;
  for (let left = count; left > 0; ) {
    const used = min<u32>(left, LANES as u32);
    for (let lane: usize = 0; lane < used; lane++) {
      const bytes = 1 + (bswap<u16>(load<u16>(at)) as usize);
      const start = at + prefix - 1;
      if (prefix < 3) store<u8>(start, 0);
      setLane(lane, start, bytes, out + HASH * lane);
      at = start + bytes;
    }
    for (let lane: usize = used; lane < LANES; lane++) setLane(lane, from, 0, 0);
    hashLanes(used);
    out += HASH * used;
    left -= used;
  }
}

/**
 * Hashes the `count` entries of a bundle, 256 at most, where they lie: `places` has 48 bytes of each, of which the first words say where
 * it begins and ends (entries.as.ts). The byte before each, of its length, becomes its leaf's 0x00. Entries of as many blocks
 * share a vector: of mixed lengths, lanes would wait for the longest.
 */
export function placed(places: usize, count: u32, to: usize): void {
  memory.fill(STARTS, 0, LENGTHS * 4);
  for (let i: u32 = 0; i < count; i++) {
    const start = STARTS + lengthOf(places + (i as usize) * PLACE) * 4;
    store<u32>(start, load<u32>(start) + 1);
  }
  let sum: u32 = 0;
  for (let length: usize = 0; length < (LENGTHS as usize); length++) {
    const alike = load<u32>(STARTS + length * 4);
    store<u32>(STARTS + length * 4, sum);
    sum += alike;
  }
  for (let i: u32 = 0; i < count; i++) {
    const start = STARTS + lengthOf(places + (i as usize) * PLACE) * 4;
    const at = load<u32>(start);
    store<u32>(start, at + 1);
    store<u32>(ORDER + (at as usize) * 4, i);
  }
  for (let done: u32 = 0; done < count; done += LANES as u32) {
    const used = min<u32>(count - done, LANES as u32);
    for (let lane: usize = 0; lane < used; lane++) {
      const i = load<u32>(ORDER + ((done as usize) + lane) * 4) as usize;
      const place = places + i * PLACE;
      const start = (load<u32>(place) as usize) - 1;
      store<u8>(start, 0);
      setLane(lane, start, (load<u32>(place, 4) as usize) - start, to + i * HASH);
    }
    for (let lane: usize = used; lane < LANES; lane++) setLane(lane, places, 0, 0);
    hashLanes(used);
  }
}

/** The length in blocks of an entry's leaf, as `placed` sorts them. */
function lengthOf(place: usize): usize {
  const bytes = load<u32>(place, 4) - load<u32>(place) + 1;
  return min<u32>((bytes + 8) >>> 6, LENGTHS - 1) as usize;
}

/** Hashes the `count` hashes at `at`, a power of two, to one root, in their place. */
export function root(at: usize, count: u32): void {
  for (let lane: usize = 0; lane < LANES; lane++) {
    const tail = TAILS + lane * 128;
    memory.fill(tail, 0, 128);
    store<u8>(tail, 1);
    store<u8>(tail + 65, 0x80);
    store<u16>(tail + 126, bswap<u16>(65 * 8));
  }
  for (let left = count; left > 1; left >>= 1) {
    const pairs = left >> 1;
    for (let first: u32 = 0; first < pairs; first += LANES as u32) {
      const used = min<u32>(pairs - first, LANES as u32);
      for (let lane: usize = 0; lane < used; lane++) {
        const pair = at + (first + lane) * 64;
        const tail = TAILS + lane * 128;
        v128.store(tail, v128.load(pair), 1);
        v128.store(tail, v128.load(pair, 16), 17);
        v128.store(tail, v128.load(pair, 32), 33);
        v128.store(tail, v128.load(pair, 48), 49);
        store<u32>(LANE + lane * 16, (at + (first + lane) * HASH) as u32, 12);
      }
      initState();
      compress(TAILS, TAILS + 128, TAILS + 256, TAILS + 384);
      compress(TAILS + 64, TAILS + 192, TAILS + 320, TAILS + 448);
      if (used === (LANES as u32)) takeAll();
      else for (let lane: usize = 0; lane < used; lane++) takeHash(lane);
    }
  }
}

function setLane(lane: usize, at: usize, bytes: usize, to: usize): void {
  const whole = bytes >>> 6;
  const rest = bytes & 63;
  const tail = TAILS + lane * 128;
  const blocks: usize = rest < 56 ? 1 : 2;
  memory.fill(tail, 0, 128);
  memory.copy(tail, at + whole * BLOCK, rest);
  store<u8>(tail + rest, 0x80);
  store<u64>(tail + blocks * BLOCK - 8, bswap<u64>((bytes as u64) << 3));
  const about = LANE + lane * 16;
  store<u32>(about, at as u32);
  store<u32>(about, whole as u32, 4);
  store<u32>(about, (whole + blocks) as u32, 8);
  store<u32>(about, to as u32, 12);
}

function hashLanes(used: u32): void {
  let blocks: u32 = 0;
  let least: u32 = u32.MAX_VALUE;
  for (let lane: usize = 0; lane < used; lane++) {
    const own = load<u32>(LANE + lane * 16, 8);
    blocks = max<u32>(blocks, own);
    least = min<u32>(least, own);
  }
  const areAlike = least === blocks && used === (LANES as u32);
  initState();
  for (let block: u32 = 0; block < blocks; block++) {
    compress(blockOf(0, block), blockOf(1, block), blockOf(2, block), blockOf(3, block));
    if (areAlike) continue;
    for (let lane: usize = 0; lane < used; lane++) {
      if (block + 1 === load<u32>(LANE + lane * 16, 8)) takeHash(lane);
    }
  }
  if (areAlike) takeAll();
}

/** Where a lane's block stands. A lane that is done goes on with its last one: nobody looks at what comes of it. */
function blockOf(lane: usize, block: u32): usize {
  const about = LANE + lane * 16;
  const whole = load<u32>(about, 4);
  if (block < whole) return (load<u32>(about) as usize) + (block as usize) * BLOCK;
  return TAILS + lane * 128 + min<usize>((block - whole) as usize, 1) * BLOCK;
}

function takeHash(lane: usize): void {
  const to = load<u32>(LANE + lane * 16, 12) as usize;
  for (let i: usize = 0; i < 8; i++) {
    store<u32>(to + i * 4, bswap<u32>(load<u32>(STATE + i * 16 + lane * 4)));
  }
}

/** The hashes of all lanes at once. */
function takeAll(): void {
  for (let half: usize = 0; half < HASH; half += 16) {
    const state = STATE + half * 4;
    const a = v128.load(state);
    const b = v128.load(state, 16);
    const c = v128.load(state, 32);
    const d = v128.load(state, 48);
    const ab = v128.shuffle<i32>(a, b, 0, 4, 1, 5);
    const cd = v128.shuffle<i32>(c, d, 0, 4, 1, 5);
    const AB = v128.shuffle<i32>(a, b, 2, 6, 3, 7);
    const CD = v128.shuffle<i32>(c, d, 2, 6, 3, 7);
    putWords(0, half, v128.shuffle<i64>(ab, cd, 0, 2));
    putWords(1, half, v128.shuffle<i64>(ab, cd, 1, 3));
    putWords(2, half, v128.shuffle<i64>(AB, CD, 0, 2));
    putWords(3, half, v128.shuffle<i64>(AB, CD, 1, 3));
  }
}

function putWords(lane: usize, half: usize, four: v128): void {
  v128.store((load<u32>(LANE + lane * 16, 12) as usize) + half, bigEndian(four));
}

function initState(): void {
  v128.store(STATE, i32x4.splat(0x6a09e667), 0);
  v128.store(STATE, i32x4.splat(0xbb67ae85), 16);
  v128.store(STATE, i32x4.splat(0x3c6ef372), 32);
  v128.store(STATE, i32x4.splat(0xa54ff53a), 48);
  v128.store(STATE, i32x4.splat(0x510e527f), 64);
  v128.store(STATE, i32x4.splat(0x9b05688c), 80);
  v128.store(STATE, i32x4.splat(0x1f83d9ab), 96);
  v128.store(STATE, i32x4.splat(0x5be0cd19), 112);
}

/** Loads 16 bytes as four big-endian words. */
function words(at: usize): v128 {
  return bigEndian(v128.load(at));
}

function bigEndian(four: v128): v128 {
  return v128.swizzle(four, i8x16(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12));
}

function rotr(x: v128, n: i32): v128 {
  return v128.or(i32x4.shr_u(x, n), i32x4.shl(x, 32 - n));
}

function compress(p0: usize, p1: usize, p2: usize, p3: usize): void {
  for (let i: usize = 0; i < BLOCK; i += 16) {
    const a = words(p0 + i);
    const b = words(p1 + i);
    const c = words(p2 + i);
    const d = words(p3 + i);
    // Four words of four lanes: transposed, so that a vector holds one word of each.
    const ab = v128.shuffle<i32>(a, b, 0, 4, 1, 5);
    const cd = v128.shuffle<i32>(c, d, 0, 4, 1, 5);
    const AB = v128.shuffle<i32>(a, b, 2, 6, 3, 7);
    const CD = v128.shuffle<i32>(c, d, 2, 6, 3, 7);
    const w = SCHEDULE + i * 4;
    v128.store(w, v128.shuffle<i64>(ab, cd, 0, 2), 0);
    v128.store(w, v128.shuffle<i64>(ab, cd, 1, 3), 16);
    v128.store(w, v128.shuffle<i64>(AB, CD, 0, 2), 32);
    v128.store(w, v128.shuffle<i64>(AB, CD, 1, 3), 48);
  }
  for (let i: usize = 16 * 16; i < 64 * 16; i += 16) {
    const w = SCHEDULE + i;
    const x = v128.load(w - 15 * 16);
    const y = v128.load(w - 2 * 16);
    const s0 = v128.xor(v128.xor(rotr(x, 7), rotr(x, 18)), i32x4.shr_u(x, 3));
    const s1 = v128.xor(v128.xor(rotr(y, 17), rotr(y, 19)), i32x4.shr_u(y, 10));
    const sum = i32x4.add(v128.load(w - 7 * 16), v128.load(w - 16 * 16));
    v128.store(w, i32x4.add(i32x4.add(s0, s1), sum));
  }
  let a = v128.load(STATE, 0);
  let b = v128.load(STATE, 16);
  let c = v128.load(STATE, 32);
  let d = v128.load(STATE, 48);
  let e = v128.load(STATE, 64);
  let f = v128.load(STATE, 80);
  let g = v128.load(STATE, 96);
  let h = v128.load(STATE, 112);
  for (let i: usize = 0; i < 64 * 16; i += 64) {
    const w = SCHEDULE + i;
    const k = CONSTANTS + i;
    // Four rounds a turn, in which the names go round in place of the values.
    h = i32x4.add(t1(e, f, g, h), i32x4.add(v128.load(w), v128.load(k)));
    d = i32x4.add(d, h);
    h = i32x4.add(h, t2(a, b, c));
    g = i32x4.add(t1(d, e, f, g), i32x4.add(v128.load(w, 16), v128.load(k, 16)));
    c = i32x4.add(c, g);
    g = i32x4.add(g, t2(h, a, b));
    f = i32x4.add(t1(c, d, e, f), i32x4.add(v128.load(w, 32), v128.load(k, 32)));
    b = i32x4.add(b, f);
    f = i32x4.add(f, t2(g, h, a));
    e = i32x4.add(t1(b, c, d, e), i32x4.add(v128.load(w, 48), v128.load(k, 48)));
    a = i32x4.add(a, e);
    e = i32x4.add(e, t2(f, g, h));
    const p = a;
    const q = b;
    const r = c;
    const s = d;
    a = e;
    b = f;
    c = g;
    d = h;
    e = p;
    f = q;
    g = r;
    h = s;
  }
  add(0, a);
  add(16, b);
  add(32, c);
  add(48, d);
  add(64, e);
  add(80, f);
  add(96, g);
  add(112, h);
}

/** h + Sigma1(e) + Ch(e, f, g) */
function t1(e: v128, f: v128, g: v128, h: v128): v128 {
  const sigma = v128.xor(v128.xor(rotr(e, 6), rotr(e, 11)), rotr(e, 25));
  const ch = v128.xor(g, v128.and(e, v128.xor(f, g)));
  return i32x4.add(i32x4.add(h, sigma), ch);
}

/** Sigma0(a) + Maj(a, b, c) */
function t2(a: v128, b: v128, c: v128): v128 {
  const sigma = v128.xor(v128.xor(rotr(a, 2), rotr(a, 13)), rotr(a, 22));
  const maj = v128.xor(v128.and(v128.xor(a, b), v128.xor(b, c)), b);
  return i32x4.add(sigma, maj);
}

function add(at: usize, value: v128): void {
  v128.store(STATE + at, i32x4.add(v128.load(STATE + at), value));
}
