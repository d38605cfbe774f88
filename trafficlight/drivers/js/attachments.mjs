// Encrypted attachments, https://spec.matrix.org/latest/client-server-api/#sending-encrypted-attachments
import { createCipheriv, createDecipheriv, createHash, randomBytes } from "node:crypto";

const unpadded = (bytes, encoding = "base64") => bytes.toString(encoding).replace(/=+$/, "");
const digest = (bytes) => unpadded(createHash("sha256").update(bytes).digest());

/** Encrypt bytes; `file` is the event's, without its URL. */
export function encrypted(bytes) {
    const key = randomBytes(32);
    // The counter is the second half and starts at zero.
    const iv = Buffer.concat([randomBytes(8), Buffer.alloc(8)]);
    const cipher = createCipheriv("aes-256-ctr", key, iv);
    const data = Buffer.concat([cipher.update(bytes), cipher.final()]);
    const jwk = { kty: "oct", alg: "A256CTR", ext: true, key_ops: ["encrypt", "decrypt"], k: unpadded(key, "base64url") };
    return { data, file: { v: "v2", key: jwk, iv: unpadded(iv), hashes: { sha256: digest(data) } } };
}

/** Decrypt what an event's `file` describes; throws if the hash does not match. */
export function decrypted(data, { key, iv, hashes }) {
    if (digest(data) !== hashes.sha256.replace(/=+$/, "")) throw new Error("the file's hash does not match");
    const decipher = createDecipheriv("aes-256-ctr", Buffer.from(key.k, "base64url"), Buffer.from(iv, "base64"));
    return Buffer.concat([decipher.update(data), decipher.final()]);
}
