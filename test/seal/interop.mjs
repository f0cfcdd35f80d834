// Does one thing asked for on standard input, as JSON, and answers on standard output, as JSON:
//   {"do": "seal",    "jwk", "typ", "sub", "now", "payload"}  -> {"jwe"}                 with the browser's module
//   {"do": "encrypt", "jwk", "header", "text"}                -> {"jwe"}                 with jose
//   {"do": "decrypt", "jwk", "jwe"}                           -> {"header", "text"}      with jose
//   {"do": "spy",     "jwk", "typ", "sub", "now", "payload"}  -> {"left", "watched"}     with the browser's module
import { CompactEncrypt, compactDecrypt, importJWK } from "jose";
import { seal } from "./seal.mjs";

const acts = {
	async seal({ jwk, typ, sub, now, payload }) {
		return { jwe: await seal(jwk, { typ, sub, now }, payload) };
	},
	async encrypt({ jwk, header, text }) {
		const key = await importJWK(jwk, header.alg);
		return { jwe: await new CompactEncrypt(new TextEncoder().encode(text)).setProtectedHeader(header).encrypt(key) };
	},
	async decrypt({ jwk, jwe }) {
		const options = { keyManagementAlgorithms: ["RSA-OAEP-256"], contentEncryptionAlgorithms: ["A256GCM"] };
		const opened = await compactDecrypt(jwe, await importJWK(jwk, "RSA-OAEP-256"), options);
		return { header: opened.protectedHeader, text: new TextDecoder().decode(opened.plaintext) };
	},
	// Watches the buffers handed to WebCrypto, and counts those with a secret in them that were not overwritten.
	async spy({ jwk, typ, sub, now, payload }) {
		const secrets = [];
		const { importKey, encrypt } = crypto.subtle;
		crypto.subtle.importKey = function (format, data, ...rest) {
			if (format === "raw") secrets.push(data);
			return importKey.call(this, format, data, ...rest);
		};
		crypto.subtle.encrypt = function (algorithm, key, data) {
			secrets.push(data);
			return encrypt.call(this, algorithm, key, data);
		};
		await seal(jwk, { typ, sub, now }, payload);
		return { left: secrets.filter((b) => b.some((x) => x !== 0)).length, watched: secrets.length };
	},
};

let input = "";
for await (const chunk of process.stdin) input += chunk;
const ask = JSON.parse(input);
process.stdout.write(JSON.stringify(await acts[ask.do](ask)));
