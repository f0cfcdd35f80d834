// Does one thing asked for on standard input, as JSON, and answers on standard output, as JSON:
//   {"do": "seal",    "jwk", "known", "typ", "sub", "now", "payload"}  -> {"jwe"}               with the browser's module
//   {"do": "refuse",  "jwk", "known", "typ", "sub", "now", "payload"}  -> {"code", "touched"}   with the browser's module
//   {"do": "encrypt", "jwk", "header", "text", "block"}                -> {"jwe"}               with jose
//   {"do": "decrypt", "jwk", "jwe"}                                    -> {"header", "bytes"}   with jose
//   {"do": "spy",     "jwk", "known", "typ", "sub", "now", "payload"}  -> {"left", "watched"}   with the browser's module
import { CompactEncrypt, compactDecrypt, importJWK } from "jose";
import { seal } from "./seal.mjs";

const acts = {
	async seal({ jwk, payload, ...task }) {
		return { jwe: await seal(jwk, task, payload) };
	},
	// Says how the module refuses, and how often WebCrypto was given a key or something to encrypt by then.
	async refuse({ jwk, payload, ...task }) {
		let touched = 0;
		for (const act of ["importKey", "encrypt", "wrapKey"]) {
			const real = crypto.subtle[act];
			crypto.subtle[act] = function (...args) {
				touched++;
				return real.apply(this, args);
			};
		}
		try {
			return { code: "", touched, jwe: await seal(jwk, task, payload) };
		} catch (failure) {
			return { code: failure.code ?? String(failure), touched };
		}
	},
	// Fills up to the block as ISO/IEC 7816-4 has it, written anew.
	async encrypt({ jwk, header, text, block }) {
		const key = await importJWK(jwk, header.alg);
		const bytes = [...new TextEncoder().encode(text), 0x80];
		while (bytes.length % block !== 0) bytes.push(0);
		return { jwe: await new CompactEncrypt(Uint8Array.from(bytes)).setProtectedHeader(header).encrypt(key) };
	},
	async decrypt({ jwk, jwe }) {
		const options = { keyManagementAlgorithms: ["RSA-OAEP-256"], contentEncryptionAlgorithms: ["A256GCM"] };
		const opened = await compactDecrypt(jwe, await importJWK(jwk, "RSA-OAEP-256"), options);
		return { header: opened.protectedHeader, bytes: Buffer.from(opened.plaintext).toString("base64") };
	},
	// Watches the buffers handed to WebCrypto, and counts those with a secret in them that were not overwritten.
	async spy({ jwk, payload, ...task }) {
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
		const { encode } = TextEncoder.prototype;
		TextEncoder.prototype.encode = function (text) {
			const bytes = encode.call(this, text);
			if (text === payload || text === JSON.stringify(payload)) secrets.push(bytes);
			return bytes;
		};
		await seal(jwk, task, payload);
		return { left: secrets.filter((b) => b.some((x) => x !== 0)).length, watched: secrets.length };
	},
};

let input = "";
for await (const chunk of process.stdin) input += chunk;
const ask = JSON.parse(input);
process.stdout.write(JSON.stringify(await acts[ask.do](ask)));
