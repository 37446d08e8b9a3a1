//! Keys, each with the one algorithm that it is for.
//!
//! RFC 8725 (3.1) asks that a key be used with exactly one algorithm. Here that holds by construction:
//! a key's kind is its algorithm (RSA is RS256, a point on P-256 is ES256, …), it is parsed when it is
//! loaded, and a token's `alg` only has to agree.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use aws_lc_rs::hmac;
use aws_lc_rs::rsa::{PublicKey as RsaPublicKey, PublicKeyComponents};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

/// Bytes that a secret needs (RFC 7518, 3.2: as many as the hash has). Shorter ones can be guessed
/// from a single token.
pub const SECRET_BYTES_MIN: usize = 32;
/// Bits that an RSA key needs and may have (RFC 7518, 3.3).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Keys in a set. A token without `kid` is tried with each, so that this bounds its cost.
pub const KEYS_MAX: usize = 64;

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// HMAC with SHA-256 and a secret that issuer and server share.
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 4] = [Algorithm::Hs256, Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];

    /// As a token's `alg` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Hs256 => "HS256",
            Algorithm::Rs256 => "RS256",
            Algorithm::Es256 => "ES256",
            Algorithm::EdDsa => "EdDSA",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no such algorithm, or it is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the algorithms are HS256, RS256, ES256 and EdDSA")]
pub struct UnknownAlgorithm;

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Algorithm, UnknownAlgorithm> {
        // RFC 9864 gives Ed25519 the name of its own that `EdDSA` was too broad for.
        let name = if name == "Ed25519" { "EdDSA" } else { name };
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name).ok_or(UnknownAlgorithm)
    }
}

/// Why keys can't be used. For operators; the keys themselves are not repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A secret that can be guessed.
    #[error("the secret has {0} bytes; HS256 needs at least {SECRET_BYTES_MIN}")]
    SecretTooShort(usize),
    /// A secret that others have.
    #[error("this is a key or a document, and no secret: whoever has it could sign tokens; a key goes into key_file")]
    NoSecret,
    /// A file of keys with something else in it.
    #[error(
        "the file is neither PEM nor a JWK or JWKS; of a key in another form, make PEM (openssl pkey -pubin -inform DER), \
         and name a file with a secret by secret_file"
    )]
    NoKey,
    /// A PEM file that is cut off or damaged.
    #[error("the PEM text can't be read")]
    BadPem,
    /// A PEM file with something else in it.
    #[error("the file holds a {label}; {remedy}")]
    OtherPem {
        /// What it says it is.
        label: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Not JSON, or JSON that is no key.
    #[error("the JSON is neither a JWK nor a JWKS")]
    BadJson,
    /// More keys than are kept.
    #[error("there are {0} keys, and at most {KEYS_MAX} are taken")]
    TooMany(usize),
    /// A single key that can't be used.
    #[error("the key can't be used: {0}")]
    Unusable(&'static str),
    /// None of the keys can be used.
    #[error("none of the {count} keys can be used{}", why(*.first))]
    NoneUsable {
        /// How many there were.
        count: usize,
        /// Why the first can't be.
        first: Option<&'static str>,
    },
}

/// Whether this is a key that others have, or something else that nobody would take for a secret: with it as the
/// secret of HS256, whoever has it could sign.
fn is_public(secret: &[u8]) -> bool {
    let text = std::str::from_utf8(secret).unwrap_or_default().trim_start();
    let begins = ["{", "<", "-----", "---- BEGIN", "ssh-", "ecdsa-sha2-"];
    if begins.iter().any(|begin| text.starts_with(begin)) || text.contains("BEGIN ") {
        return true;
    }
    let packed: String = text.split_whitespace().collect();
    let decoded = STANDARD.decode(&packed).or_else(|_| URL_SAFE_NO_PAD.decode(&packed)).unwrap_or_default();
    is_der(secret) || is_der(&decoded)
}

/// Whether this is one DER sequence, as all public keys and certificates are (X.690, 8.1).
fn is_der(bytes: &[u8]) -> bool {
    let length = match bytes {
        [0x30, length @ 0..=0x7F, ..] => 2 + usize::from(*length),
        [0x30, 0x81, length, ..] => 3 + usize::from(*length),
        [0x30, 0x82, high, low, ..] => 4 + usize::from(u16::from_be_bytes([*high, *low])),
        _ => return false,
    };
    length == bytes.len()
}

fn why(first: Option<&'static str>) -> String {
    first.map_or_else(String::new, |first| format!("; the first: {first}"))
}

/// Who keeps keys: what comes over the network holds no secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptIn {
    /// A file of this machine.
    File,
    /// An address that others can read too: a secret there is none.
    Address,
}

/// A key that tokens are checked with.
pub struct Key {
    /// `kid`, where the key has one.
    id: Option<String>,
    check: Check,
}

enum Check {
    /// Boxed: it holds the hash's state twice.
    Secret(Box<hmac::Key>),
    Public(Algorithm, ParsedPublicKey),
}

impl Key {
    /// By what it is checked.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match &self.check {
            Check::Secret(_) => Algorithm::Hs256,
            Check::Public(algorithm, _) => *algorithm,
        }
    }

    /// Whether this key has signed the message.
    #[must_use]
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.check {
            Check::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Check::Public(_, key) => key.verify_sig(message, signature).is_ok(),
        }
    }

    fn from_secret(secret: &[u8]) -> Result<Key, KeyError> {
        if is_public(secret) {
            return Err(KeyError::NoSecret);
        }
        if secret.len() < SECRET_BYTES_MIN {
            return Err(KeyError::SecretTooShort(secret.len()));
        }
        Ok(Key { id: None, check: Check::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret))) })
    }

    /// SubjectPublicKeyInfo, or PKCS#1's RSAPublicKey.
    fn from_der(der: &[u8]) -> Result<Key, &'static str> {
        let public = |algorithm, key| Ok(Key { id: None, check: Check::Public(algorithm, key) });
        if let Ok(key) = ParsedPublicKey::new(&ED25519, der) {
            return public(Algorithm::EdDsa, key);
        }
        if let Ok(key) = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, der) {
            return public(Algorithm::Es256, key);
        }
        match RsaPublicKey::from_der(der) {
            Ok(key) => rsa(&PublicKeyComponents::from(&key)),
            Err(_) => Err("it is neither RSA, nor on P-256, nor Ed25519"),
        }
    }

    /// RFC 7517; RFC 8037 for Ed25519.
    fn from_jwk(jwk: &Value, kept_in: KeptIn) -> Result<Key, &'static str> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| {
            text(name)
                .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
                .ok_or("a part of it is missing or no base64url")
        };
        if text("use").is_some_and(|for_what| for_what != "sig") {
            return Err("it is not for signatures (`use`)");
        }
        let operations = jwk.get("key_ops").and_then(Value::as_array);
        if operations.is_some_and(|operations| operations.iter().all(|operation| operation != "verify")) {
            return Err("it is not for checking signatures (`key_ops`)");
        }
        if jwk.get("d").is_some() {
            return Err("its private part is there too (`d`); this server needs the public one alone");
        }
        let mut key = match (text("kty"), text("crv")) {
            (Some("oct"), _) if kept_in == KeptIn::Address => return Err("a secret that others can read is none"),
            (Some("oct"), _) => Key::from_secret(&bytes("k")?).map_err(|_| "the secret is shorter than 32 bytes")?,
            (Some("RSA"), _) => {
                // RFC 7518 (6.3.1.1) has no leading zeros, and warns that some write them.
                let trimmed = |mut bytes: Vec<u8>| {
                    let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
                    bytes.split_off(zeros)
                };
                rsa(&PublicKeyComponents { n: trimmed(bytes("n")?), e: trimmed(bytes("e")?) })?
            }
            (Some("EC"), Some("P-256")) => {
                let (x, y) = (bytes("x")?, bytes("y")?);
                if (x.len(), y.len()) != (32, 32) {
                    return Err("a coordinate on P-256 has 32 bytes");
                }
                let point = [&[4][..], &x, &y].concat();
                let key =
                    ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).map_err(|_| "it is no point of P-256")?;
                Key { id: None, check: Check::Public(Algorithm::Es256, key) }
            }
            (Some("OKP"), Some("Ed25519")) => {
                let x = bytes("x")?;
                if x.len() != 32 {
                    return Err("an Ed25519 key has 32 bytes");
                }
                let key = ParsedPublicKey::new(&ED25519, x).map_err(|_| "it is no point of Ed25519")?;
                Key { id: None, check: Check::Public(Algorithm::EdDsa, key) }
            }
            _ => return Err("it is neither RSA, nor on P-256, nor Ed25519, nor a secret (`kty`, `crv`)"),
        };
        if text("alg").is_some_and(|name| name.parse() != Ok(key.algorithm())) {
            return Err("its `alg` is none of HS256, RS256, ES256 and EdDSA, or not its kind's");
        }
        key.id = text("kid").map(str::to_owned);
        Ok(key)
    }
}

fn rsa(components: &PublicKeyComponents<Vec<u8>>) -> Result<Key, &'static str> {
    let unused = components.n.first().map_or(0, |first| first.leading_zeros() as usize);
    if !RSA_BITS.contains(&(components.n.len() * 8 - unused)) {
        return Err("an RSA key has 2048 to 8192 bits");
    }
    let key = components.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).map_err(|_| "it is no RSA key")?;
    Ok(Key { id: None, check: Check::Public(Algorithm::Rs256, key) })
}

/// Shows no key.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithm", &self.algorithm()).finish_non_exhaustive()
    }
}

/// The keys that are known at one moment.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    /// Why some of what was read is no key of ours; not a mistake, since a server of keys also
    /// has those for encryption, and those of algorithms to come.
    pub skipped: Vec<&'static str>,
}

impl KeySet {
    /// A single secret.
    ///
    /// # Errors
    /// [`KeyError::SecretTooShort`], [`KeyError::NoSecret`]
    pub fn from_secret(secret: &[u8]) -> Result<KeySet, KeyError> {
        Ok(KeySet { keys: vec![Key::from_secret(secret)?], skipped: Vec::new() })
    }

    /// What the keys are for.
    #[must_use]
    pub fn algorithms(&self) -> BTreeSet<Algorithm> {
        self.keys.iter().map(Key::algorithm).collect()
    }

    /// What a file of keys holds: PEM, or a JWK or JWKS. What it is is never guessed: a public key in another
    /// form would be a secret that everybody has.
    ///
    /// # Errors
    /// When it holds no key that can be used.
    pub fn from_file(content: &[u8]) -> Result<KeySet, KeyError> {
        let text = std::str::from_utf8(content).map_err(|_| KeyError::NoKey)?;
        if text.contains("-----BEGIN ") {
            return KeySet::from_pem(text);
        }
        if text.trim_start().starts_with('{') {
            return KeySet::from_json(content, KeptIn::File);
        }
        Err(KeyError::NoKey)
    }

    /// What a file of a secret holds, byte by byte; of one that is text the line's end is not part.
    ///
    /// # Errors
    /// [`KeyError::SecretTooShort`], [`KeyError::NoSecret`]
    pub fn from_secret_file(content: &[u8]) -> Result<KeySet, KeyError> {
        let Ok(text) = std::str::from_utf8(content) else { return KeySet::from_secret(content) };
        let line = text.strip_suffix('\n').unwrap_or(text);
        KeySet::from_secret(line.strip_suffix('\r').unwrap_or(line).as_bytes())
    }

    /// Every public key of a PEM text (RFC 7468).
    fn from_pem(text: &str) -> Result<KeySet, KeyError> {
        let mut keys = Vec::new();
        let mut rest = text;
        while let Some((_, begun)) = rest.split_once("-----BEGIN ") {
            let (label, body) = begun.split_once("-----").ok_or(KeyError::BadPem)?;
            let (body, after) = body.split_once(&format!("-----END {label}-----")).ok_or(KeyError::BadPem)?;
            rest = after;
            let remedy = match label {
                "PUBLIC KEY" | "RSA PUBLIC KEY" => {
                    let packed: String = body.split_whitespace().collect();
                    let der = STANDARD.decode(packed).map_err(|_| KeyError::BadPem)?;
                    keys.push(Key::from_der(&der).map_err(KeyError::Unusable)?);
                    continue;
                }
                "CERTIFICATE" => "take its public key out: openssl x509 -pubkey -noout",
                label if label.ends_with("PRIVATE KEY") => {
                    "this server needs the public one alone: openssl pkey -pubout"
                }
                _ => "a PUBLIC KEY is wanted",
            };
            return Err(KeyError::OtherPem { label: label.to_owned(), remedy });
        }
        KeySet::of(keys, Vec::new())
    }

    /// A JWK, or a JWKS. Keys of a set that can't be used are skipped (RFC 7517, 5).
    ///
    /// # Errors
    /// When there is no key that can be used.
    pub fn from_json(content: &[u8], kept_in: KeptIn) -> Result<KeySet, KeyError> {
        let object: Map<String, Value> = serde_json::from_slice(content).map_err(|_| KeyError::BadJson)?;
        let Some(listed) = object.get("keys") else {
            if !object.contains_key("kty") {
                return Err(KeyError::BadJson);
            }
            let key = Key::from_jwk(&Value::Object(object), kept_in).map_err(KeyError::Unusable)?;
            return KeySet::of(vec![key], Vec::new());
        };
        let (mut keys, mut skipped) = (Vec::new(), Vec::new());
        for jwk in listed.as_array().ok_or(KeyError::BadJson)? {
            match Key::from_jwk(jwk, kept_in) {
                Ok(key) => keys.push(key),
                Err(why) => skipped.push(why),
            }
        }
        KeySet::of(keys, skipped)
    }

    fn of(keys: Vec<Key>, skipped: Vec<&'static str>) -> Result<KeySet, KeyError> {
        match keys.len() {
            0 => Err(KeyError::NoneUsable { count: skipped.len(), first: skipped.first().copied() }),
            1..=KEYS_MAX => Ok(KeySet { keys, skipped }),
            count => Err(KeyError::TooMany(count)),
        }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys that may have signed a token with this header: of its algorithm, and with its `kid`.
    /// When no key is called so, those without a name may be meant (a PEM file gives none). A token
    /// that names no key may be of any.
    pub fn candidates<'a>(&'a self, id: Option<&'a str>, algorithm: Algorithm) -> impl Iterator<Item = &'a Key> {
        let is_named = id.is_some() && self.keys.iter().any(|key| key.id.as_deref() == id);
        self.keys.iter().filter(move |key| {
            let may_be_meant = id.is_none() || key.id.as_deref() == id.filter(|_| is_named);
            may_be_meant && key.algorithm() == algorithm
        })
    }

    /// Whether a token with this `kid` can only be of a key that is called so.
    #[must_use]
    pub fn knows(&self, id: Option<&str>) -> bool {
        id.is_some() && self.keys.iter().any(|key| key.id.as_deref() == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use expect_test::expect;
    use serde_json::json;

    use crate::testing::Signer;

    const P256_PEM: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE84qTiEvgCj4nol0A9vHmtT/PGqOx
PLNhcTxkVrZnh1M8toH84563rncyWtAcKmk3KOex7kjdBCq4IFrakvladQ==
-----END PUBLIC KEY-----
";
    const ED25519_PEM: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEArICrE1PMYAxGD871/HjqQsvNLpG6VnfIYYD95tn5IHY=
-----END PUBLIC KEY-----
";

    /// What a file's keys are, or why there are none.
    fn told(content: &[u8]) -> String {
        match KeySet::from_file(content) {
            Ok(set) => {
                let keys = set.keys.iter().map(|key| format!("{} {:?}", key.algorithm(), key.id));
                let skipped = set.skipped.iter().map(|why| format!("skipped: {why}"));
                keys.chain(skipped).collect::<Vec<_>>().join("; ")
            }
            Err(error) => format!("error: {error}"),
        }
    }

    /// Where RFC 7518 has no leading zeros, some write them; where it has the full size, they matter.
    #[test]
    fn files_are_pem_or_json() {
        let secret = "0123456789abcdef0123456789abcdef";
        let rsa = Signer::rsa();
        let mut rsa_jwk = rsa.jwk("r1");
        let modulus = URL_SAFE_NO_PAD.decode(rsa_jwk["n"].as_str().expect("a text")).expect("base64url");
        rsa_jwk["n"] = URL_SAFE_NO_PAD.encode([&[0][..], &modulus].concat()).into();
        let set = json!({ "keys": [rsa_jwk, Signer::ec().jwk("e1"), { "kty": "OKP", "crv": "X25519", "x": "AA" }] });
        let files: [(&str, String); 7] = [
            ("P-256", P256_PEM.to_owned()),
            ("Ed25519, and words before it", format!("the key of shop.example\n{ED25519_PEM}")),
            ("two", format!("{P256_PEM}{ED25519_PEM}")),
            ("Windows", P256_PEM.replace('\n', "\r\n")),
            ("a JWK", Signer::ed().jwk("x").to_string()),
            ("a JWKS", format!("\n  {set}")),
            ("a secret as JWK", json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(secret), "kid": "s" }).to_string()),
        ];
        let told: String = files.iter().map(|(what, file)| format!("{what}: {}\n", told(file.as_bytes()))).collect();
        expect![[r#"
            P-256: ES256 None
            Ed25519, and words before it: EdDSA None
            two: ES256 None; EdDSA None
            Windows: ES256 None
            a JWK: EdDSA Some("x")
            a JWKS: RS256 Some("r1"); ES256 Some("e1"); skipped: it is neither RSA, nor on P-256, nor Ed25519, nor a secret (`kty`, `crv`)
            a secret as JWK: HS256 Some("s")
        "#]]
        .assert_eq(&told);
    }

    #[test]
    fn each_mistake_has_its_remedy() {
        let jwk = |changes: Value| {
            let mut jwk = Signer::ec().jwk("k");
            for (name, value) in changes.as_object().expect("an object") {
                jwk[name] = value.clone();
            }
            jwk.to_string()
        };
        let weak = "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf9Cnzj4p4WGeK\
                    Ls1Pt8QuKUpRKfFLfRYC9AIKjbJTWit+CqvjWYzvQwECAwEAAQ==";
        let files: Vec<String> = vec![
            String::new(),
            "short".to_owned(),
            "-----BEGIN PUBLIC KEY-----\nMFkw".to_owned(),
            "-----BEGIN PUBLIC KEY".to_owned(),
            P256_PEM.replace("MFkw", "M*kw"),
            P256_PEM.replace("MFkw", "MFkx"),
            format!("-----BEGIN PUBLIC KEY-----\n{weak}\n-----END PUBLIC KEY-----\n"),
            "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n".to_owned(),
            "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n".to_owned(),
            "-----BEGIN X509 CRL-----\nAA==\n-----END X509 CRL-----\n".to_owned(),
            "{".to_owned(),
            "{}".to_owned(),
            r#"{"keys":7}"#.to_owned(),
            r#"{"keys":[]}"#.to_owned(),
            r#"{"keys":[7]}"#.to_owned(),
            jwk(json!({ "use": "enc" })),
            jwk(json!({ "key_ops": ["sign"] })),
            jwk(json!({ "alg": "ES384" })),
            jwk(json!({ "alg": "RS256" })),
            jwk(json!({ "crv": "P-384" })),
            jwk(json!({ "x": "AA" })),
            jwk(json!({ "y": null })),
            jwk(json!({ "y": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" })),
            jwk(json!({ "d": "AA" })),
            r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#.to_owned(),
            json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode([0x7f; 256]), "e": "AQAB" }).to_string(),
            r#"{"kty":"OKP","crv":"Ed25519","x":"AAAA"}"#.to_owned(),
            r#"{"kty":"oct","k":"AAAA"}"#.to_owned(),
        ];
        let told: String = files.iter().map(|file| format!("{}\n", told(file.as_bytes()))).collect();
        expect![[r#"
            error: the file is neither PEM nor a JWK or JWKS; of a key in another form, make PEM (openssl pkey -pubin -inform DER), and name a file with a secret by secret_file
            error: the file is neither PEM nor a JWK or JWKS; of a key in another form, make PEM (openssl pkey -pubin -inform DER), and name a file with a secret by secret_file
            error: the PEM text can't be read
            error: the PEM text can't be read
            error: the PEM text can't be read
            error: the key can't be used: it is neither RSA, nor on P-256, nor Ed25519
            error: the key can't be used: an RSA key has 2048 to 8192 bits
            error: the file holds a PRIVATE KEY; this server needs the public one alone: openssl pkey -pubout
            error: the file holds a CERTIFICATE; take its public key out: openssl x509 -pubkey -noout
            error: the file holds a X509 CRL; a PUBLIC KEY is wanted
            error: the JSON is neither a JWK nor a JWKS
            error: the JSON is neither a JWK nor a JWKS
            error: the JSON is neither a JWK nor a JWKS
            error: none of the 0 keys can be used
            error: none of the 1 keys can be used; the first: it is neither RSA, nor on P-256, nor Ed25519, nor a secret (`kty`, `crv`)
            error: the key can't be used: it is not for signatures (`use`)
            error: the key can't be used: it is not for checking signatures (`key_ops`)
            error: the key can't be used: its `alg` is none of HS256, RS256, ES256 and EdDSA, or not its kind's
            error: the key can't be used: its `alg` is none of HS256, RS256, ES256 and EdDSA, or not its kind's
            error: the key can't be used: it is neither RSA, nor on P-256, nor Ed25519, nor a secret (`kty`, `crv`)
            error: the key can't be used: a coordinate on P-256 has 32 bytes
            error: the key can't be used: a part of it is missing or no base64url
            error: the key can't be used: it is no point of P-256
            error: the key can't be used: its private part is there too (`d`); this server needs the public one alone
            error: the key can't be used: an RSA key has 2048 to 8192 bits
            error: the key can't be used: an RSA key has 2048 to 8192 bits
            error: the key can't be used: an Ed25519 key has 32 bytes
            error: the key can't be used: the secret is shorter than 32 bytes
        "#]].assert_eq(&told);
        let secret = r#"{"kty":"oct","k":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}"#;
        assert_eq!(
            KeySet::from_json(secret.as_bytes(), KeptIn::Address).expect_err("public"),
            KeyError::Unusable("a secret that others can read is none")
        );
    }

    /// A byte file is a secret as it is, whatever it ends with.
    #[test]
    fn a_secret_of_bytes_keeps_all_of_them() {
        let secret: Vec<u8> = (0..31).map(|i| 0xF0 + i % 8).chain([b'\n']).collect();
        let token = [b"message".as_slice(), &secret];
        let set = KeySet::from_secret_file(&secret).expect("a secret");
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, token[1]), token[0]);
        assert!(set.keys[0].has_signed(token[0], tag.as_ref()) && !set.keys[0].has_signed(b"other", tag.as_ref()));
    }

    #[test]
    fn a_secret_on_a_line_is_without_its_end() {
        let secret = "0123456789abcdef0123456789abcdef";
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), b"message");
        for file in [secret.to_owned(), format!("{secret}\n"), format!("{secret}\r\n")] {
            let set = KeySet::from_secret_file(file.as_bytes()).expect("a secret");
            assert!(set.keys[0].has_signed(b"message", tag.as_ref()), "{file:?}");
        }
        let short = KeySet::from_secret_file(b"0123456789abcdef0123456789abcde\n").expect_err("31 bytes");
        assert_eq!(short, KeyError::SecretTooShort(31));
    }

    /// An RSA key that was saved as DER, without the lines around it or for SSH was taken for the secret of
    /// HS256: whoever had the public key could sign any token.
    #[test]
    fn a_key_is_never_a_secret() {
        let der = |pem: &str| -> Vec<u8> {
            let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
            STANDARD.decode(body).expect("base64")
        };
        let body = |pem: &str| pem.lines().filter(|line| !line.starts_with("-----")).collect::<Vec<_>>().join("\n");
        let long = [&[0x30, 0x82, 0x01, 0x22][..], &[7; 0x122]].concat();
        let keys: Vec<Vec<u8>> = vec![
            P256_PEM.into(),
            P256_PEM.replace("-----", "----").into(),
            der(P256_PEM),
            der(ED25519_PEM),
            body(P256_PEM).into(),
            body(P256_PEM).replace('\n', "").into(),
            format!("{}\n", body(ED25519_PEM)).into(),
            URL_SAFE_NO_PAD.encode(der(P256_PEM)).into(),
            long.clone(),
            STANDARD.encode(&long).into(),
            b"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC7 me@shop.example\n".to_vec(),
            b"---- BEGIN SSH2 PUBLIC KEY ----\nAAAAB3NzaC1yc2EAAAADAQABAAABgQC7\n".to_vec(),
            Signer::rsa().jwk("r").to_string().into(),
            b"<!doctype html><title>404 Not Found</title>".to_vec(),
        ];
        for key in keys {
            let shown = String::from_utf8_lossy(&key).into_owned();
            assert_eq!(KeySet::from_secret_file(&key).expect_err(&shown), KeyError::NoSecret, "{shown}");
            let is_file = shown.starts_with("-----") || shown.starts_with('{');
            assert!(is_file || KeySet::from_file(&key).expect_err(&shown) == KeyError::NoKey, "{shown}");
        }
        for secret in ["MIIB is how it begins, and no more of a key", "0 is what DER begins with, and this is long"] {
            assert!(KeySet::from_secret(secret.as_bytes()).is_ok(), "{secret}");
        }
    }

    #[test]
    fn a_set_is_bounded() {
        let keys = |count: usize| {
            let keys: Vec<Value> = (0..count).map(|i| Signer::ed().jwk(&i.to_string())).collect();
            KeySet::from_json(json!({ "keys": keys }).to_string().as_bytes(), KeptIn::Address)
        };
        assert_eq!(keys(KEYS_MAX).expect("as many as are allowed").len(), KEYS_MAX);
        assert_eq!(keys(KEYS_MAX + 1).expect_err("one more"), KeyError::TooMany(KEYS_MAX + 1));
    }

    /// A key's name decides where it has one; a key without may be meant by any name.
    #[test]
    fn a_token_names_its_key() {
        let candidates = |set: &KeySet, id, algorithm| {
            set.candidates(id, algorithm).map(|key| format!("{:?}", key.id)).collect::<Vec<_>>().join(" ")
        };
        let mut unnamed = Signer::ed().jwk("");
        unnamed.as_object_mut().expect("an object").remove("kid");
        let keys = json!({ "keys": [Signer::ec().jwk("a"), Signer::ed().jwk("b"), unnamed] });
        let set = KeySet::from_file(keys.to_string().as_bytes()).expect("keys");
        for (id, algorithm, expected) in [
            (Some("a"), Algorithm::Es256, r#"Some("a")"#),
            (Some("a"), Algorithm::EdDsa, ""),
            (Some("a"), Algorithm::Hs256, ""),
            (Some("b"), Algorithm::EdDsa, r#"Some("b")"#),
            (Some("c"), Algorithm::EdDsa, "None"),
            (Some("c"), Algorithm::Es256, ""),
            (None, Algorithm::EdDsa, r#"Some("b") None"#),
            (None, Algorithm::Es256, r#"Some("a")"#),
        ] {
            assert_eq!(candidates(&set, id, algorithm), expected, "{id:?} {algorithm}");
        }
        assert_eq!([Some("a"), Some("c"), None].map(|id| set.knows(id)), [true, false, false]);
        assert!(!set.is_empty() && KeySet::default().is_empty());
    }

    #[test]
    fn algorithms_have_their_names() {
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
        }
        assert_eq!("Ed25519".parse(), Ok(Algorithm::EdDsa));
        for other in ["none", "NONE", "hs256", "HS384", "ES256K", ""] {
            assert_eq!(other.parse::<Algorithm>(), Err(UnknownAlgorithm));
        }
    }

    #[test]
    fn keys_are_not_shown() {
        let set = KeySet::from_secret(b"0123456789abcdef0123456789abcdef").expect("a secret");
        assert_eq!(format!("{set:?}"), "KeySet { keys: [Key { id: None, algorithm: Hs256, .. }], skipped: [] }");
    }
}
