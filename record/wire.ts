/**
 * The numbers of a batch, as it goes from filter to exporter: offsets, limits and header names. FORMAT.md section 4
 * explains them. Compiled by asc and by tsc.
 *
 *     offset  size  field
 *     0       4     magic, "MSB1"
 *     4       16    chain
 *     20      8     first seq, big-endian
 *     28      4     count of entries, big-endian, at least 1
 *     32      2     bytes of the receipt (r), big-endian, 0 where there is none
 *     34      2     bytes of the MAC (m), big-endian, 0 or 32
 *     36      r     the newest receipt the sender holds for this chain: a signed note
 *     36+r    m     HMAC-SHA-256
 *     36+r+m        count times: length n, big-endian uint16; 0x00; n bytes of entry
 */

/** "MSB1" read as a little-endian u32. */
export const BATCH_MAGIC: u32 = 0x3142534d;
export const BATCH_CHAIN_AT: u32 = 4;
export const BATCH_FIRST_SEQ_AT: u32 = 20;
export const BATCH_COUNT_AT: u32 = 28;
export const BATCH_RECEIPT_BYTES_AT: u32 = 32;
export const BATCH_MAC_BYTES_AT: u32 = 34;
export const BATCH_HEADER_BYTES: u32 = 36;
export const BATCH_MAC_BYTES: u32 = 32;

/** A whole batch, in bytes. */
export const MAX_BATCH_BYTES: u32 = 1_048_576;

/** Before each entry: its length as a big-endian uint16, then the 0x00 that its leaf hash begins with. */
export const ENTRY_PREFIX_BYTES: u32 = 3;

export const BATCH_PATH: string = "/v1/batches";
export const BATCH_TYPE: string = "application/vnd.meshseal.batch";

/** On every 200: the receipt, a signed note, in base64. Without it a 200 is not ours. */
export const RECEIPT_HEADER: string = "meshseal-receipt";

/** On every refusal: one of the words below. Without it the answer was made by a proxy between. */
export const REFUSAL_HEADER: string = "meshseal-refusal";

/** With "hole": the seq that the exporter needs next, in decimal. */
export const WANT_HEADER: string = "meshseal-want";

// Final refusals: sending the same bytes again cannot help.
export const REFUSED_MALFORMED: string = "malformed"; // 400
export const REFUSED_FORK: string = "fork"; // 409
export const REFUSED_ROLLBACK: string = "rollback"; // 409
export const REFUSED_TOO_LARGE: string = "too-large"; // 413
// Can help with other bytes: entries from `meshseal-want` on.
export const REFUSED_HOLE: string = "hole"; // 409
// Can help later.
export const REFUSED_FORBIDDEN: string = "forbidden"; // 403
export const REFUSED_BUSY: string = "busy"; // 429, 503
// The MAC is missing, wrong, or of a key that the log does not know: an operator can mend that.
export const REFUSED_UNAUTHENTICATED: string = "unauthenticated"; // 401

/** On a batch whose MAC is to be checked: the id of its key. */
export const KEY_ID_HEADER: string = "meshseal-key-id";

/** On a 200 to a batch with a MAC: the MAC of the receipt, in base64. Without TLS a forged 200 would free buffers. */
export const RECEIPT_MAC_HEADER: string = "meshseal-receipt-mac";

/** On a refusal of a batch whose MAC is right: the MAC of the refusal, in base64. Without TLS a forged one would end chains. */
export const REFUSAL_MAC_HEADER: string = "meshseal-refusal-mac";

/** On a batch that `meshseal recover` brings home out of an Envoy's log. */
export const RECOVERED_HEADER: string = "meshseal-recovered";

// Labels keep MACs and signatures of one purpose from being used for another. FORMAT.md sections 4.7 to 4.9.
export const MAC_LABEL_BATCH: string = "meshseal/v1/batch";
export const MAC_LABEL_RECEIPT: string = "meshseal/v1/receipt";
export const MAC_LABEL_REFUSAL: string = "meshseal/v1/refusal";
export const MAC_LABEL_SEAL: string = "meshseal/v1/seal";
export const HEAD_LABEL: string = "meshseal/v1/head";
export const SEAL_LABEL: string = "meshseal/v1/seal";
