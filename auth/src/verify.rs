//! A token and a time to claims.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};

use crate::claims::Claims;
use crate::error::AuthError;
use crate::keeper::{Keeper, KeyFault, KeySource, KeyStatus, Known};
use crate::key::{Algorithm, KeySet};

/// Bytes of a token. Browsers and proxies refuse headers of about this size too.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// How long [`Verifier::verify_fetching`] waits for newer keys.
pub const FETCH_WAIT_MAX: Duration = Duration::from_secs(5);

/// What a token must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Algorithms that are accepted; a key of another kind is as good as unknown.
    pub algorithms: BTreeSet<Algorithm>,
    /// Whose tokens are accepted, by their `iss`; when empty, those of anybody who has the key.
    pub issuers: Vec<String>,
    /// Names of this server in tokens' `aud`; one of them must be there. When empty, a token that names
    /// an audience is refused, as RFC 7519 (4.1.3) has it: it is meant for somebody else.
    pub audiences: Vec<String>,
    /// By how much the issuer's clock and ours may differ.
    pub clock_skew: Duration,
    /// Whether a token without `exp` is refused.
    pub expiry_required: bool,
    /// The longest time from `iat` to `exp` that is accepted; both are required then. It bounds how
    /// long a revocation has to be remembered.
    pub lifetime_max: Option<Duration>,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            algorithms: BTreeSet::from(Algorithm::ALL),
            issuers: Vec::new(),
            audiences: Vec::new(),
            clock_skew: Duration::from_secs(60),
            expiry_required: true,
            lifetime_max: None,
        }
    }
}

/// Checks tokens. Clones share the keys.
#[derive(Clone, Debug)]
pub struct Verifier {
    rules: Arc<Rules>,
    known: watch::Receiver<Known>,
    asked: Arc<Notify>,
}

/// Why a token is refused, and whether keys that are newer than ours may change that.
struct Refused {
    error: AuthError,
    newer_keys_may_help: bool,
}

impl From<AuthError> for Refused {
    fn from(error: AuthError) -> Refused {
        Refused { error, newer_keys_may_help: false }
    }
}

impl Verifier {
    /// Loads the keys, and makes the one that keeps them fresh: [`Keeper::run`] is for a task of its
    /// own.
    ///
    /// A secret and a file must be right now. An address may be out of reach: tokens are refused with
    /// [`AuthError::KeysUnavailable`] until it answers.
    ///
    /// # Errors
    /// With what is wrong with the secret, the file, or the address as it is written; and when none of the keys is of
    /// an algorithm that is accepted.
    pub fn open(source: KeySource, rules: Rules) -> Result<(Verifier, Keeper), KeyFault> {
        let (keeper, known, asked) = Keeper::open(source)?;
        let keys = known.borrow().keys.algorithms();
        if !keys.is_empty() && keys.is_disjoint(&rules.algorithms) {
            let names = |algorithms: &BTreeSet<Algorithm>| {
                algorithms.iter().map(|algorithm| algorithm.name()).collect::<Vec<_>>().join(", ")
            };
            return Err(KeyFault::OtherAlgorithms { keys: names(&keys), taken: names(&rules.algorithms) });
        }
        Ok((Verifier { rules: Arc::new(rules), known, asked }, keeper))
    }

    /// Checks a token at a moment, with the keys that are known now. A key that is not known is asked
    /// for in the background.
    ///
    /// # Errors
    /// With the reason, which is fit for the one who sent the token.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Claims, AuthError> {
        let keys = Arc::clone(&self.known.borrow().keys);
        self.rules.check(&keys, token, now).map_err(|refused| {
            if refused.newer_keys_may_help {
                self.asked.notify_one();
            }
            refused.error
        })
    }

    /// As [`Verifier::verify`]; but when the token is of a key that is not known, waits until the keys
    /// have been asked for again, at most [`FETCH_WAIT_MAX`]. So a key that was rotated in is known to
    /// the first client that comes with it.
    ///
    /// # Errors
    /// As [`Verifier::verify`]; [`AuthError::KeysUnavailable`] when newer keys were not to be had.
    pub async fn verify_fetching(&self, token: &str, now: SystemTime) -> Result<Claims, AuthError> {
        let mut known = self.known.clone();
        let (keys, attempts) = {
            let known = known.borrow_and_update();
            (Arc::clone(&known.keys), known.attempts)
        };
        let refused = match self.rules.check(&keys, token, now) {
            Ok(claims) => return Ok(claims),
            Err(refused) => refused,
        };
        if !refused.newer_keys_may_help {
            return Err(refused.error);
        }
        self.asked.notify_one();
        let fetched = tokio::time::timeout(FETCH_WAIT_MAX, known.wait_for(|known| known.attempts > attempts));
        let (keys, were_had) = match fetched.await {
            Ok(Ok(known)) => (Arc::clone(&known.keys), known.status.error.is_none()),
            // Without a keeper the keys are what they are.
            Ok(Err(_)) => return Err(refused.error),
            Err(_) => (keys, false),
        };
        self.rules.check(&keys, token, now).map_err(|refused| match refused.error {
            AuthError::UnknownKey if !were_had => AuthError::KeysUnavailable,
            error => error,
        })
    }

    /// What is accepted.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// How it is with the keys, for metrics.
    #[must_use]
    pub fn status(&self) -> KeyStatus {
        self.known.borrow().status.clone()
    }

    #[cfg(test)]
    pub(crate) fn watch(&self) -> watch::Receiver<Known> {
        self.known.clone()
    }
}

impl Rules {
    fn check(&self, keys: &KeySet, token: &str, now: SystemTime) -> Result<Claims, Refused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::TooLong.into());
        }
        // 1. The form: three parts of base64url, the first an object.
        let parts: Vec<&str> = token.split('.').collect();
        let &[header, payload, signature] = &parts[..] else {
            return Err(AuthError::Malformed(match parts.len() {
                5 => "it is encrypted, and only signed ones are read",
                _ => "it has not three parts with points between them",
            })
            .into());
        };
        let message = &token[..header.len() + 1 + payload.len()];
        let header: Map<String, Value> = object(header)?;
        if header.contains_key("crit") {
            // RFC 7515, 4.1.11: whoever does not understand all that is listed there must refuse.
            return Err(AuthError::Malformed("its header has `crit`").into());
        }
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(|name| name.parse().ok());
        let algorithm = algorithm.filter(|algorithm| self.algorithms.contains(algorithm));
        let algorithm: Algorithm = algorithm.ok_or(AuthError::AlgorithmRefused)?;
        let id = match header.get("kid") {
            None | Some(Value::Null) => None,
            Some(id) => Some(id.as_str().ok_or(AuthError::Malformed("its `kid` is not a text"))?),
        };

        // 2. The signature, before anything of the content is looked at.
        let signature = decode(signature)?;
        if keys.is_empty() {
            return Err(Refused { error: AuthError::KeysUnavailable, newer_keys_may_help: true });
        }
        let mut error = AuthError::UnknownKey;
        let is_signed = keys.candidates(id, algorithm).any(|key| {
            error = AuthError::BadSignature;
            key.has_signed(message.as_bytes(), &signature)
        });
        if !is_signed {
            // A key that has a name does not change; one without may have been replaced.
            return Err(Refused { error, newer_keys_may_help: !keys.knows(id) });
        }

        // 3. The content.
        let claims = Claims::read(object(payload)?)?;
        self.check_claims(&claims, now)?;
        Ok(claims)
    }

    fn check_claims(&self, claims: &Claims, now: SystemTime) -> Result<(), AuthError> {
        if self.expiry_required && claims.expires().is_none() {
            return Err(AuthError::MissingClaim("exp"));
        }
        if claims.expires().is_some_and(|expires| now >= expires + self.clock_skew) {
            return Err(AuthError::Expired);
        }
        // A token from the future would also be newer than its revocation.
        let begins = claims.not_before().max(claims.issued_at());
        if begins.is_some_and(|begins| now + self.clock_skew < begins) {
            return Err(AuthError::NotYetValid);
        }
        if let Some(lifetime_max) = self.lifetime_max {
            let issued_at = claims.issued_at().ok_or(AuthError::MissingClaim("iat"))?;
            let expires = claims.expires().ok_or(AuthError::MissingClaim("exp"))?;
            if issued_at + lifetime_max < expires {
                return Err(AuthError::LivesTooLong);
            }
        }
        if !self.issuers.is_empty() {
            let issuer = claims.get("iss").ok_or(AuthError::MissingClaim("iss"))?;
            if !self.issuers.iter().any(|known| issuer == known) {
                return Err(AuthError::OtherIssuer);
            }
        }
        let is_ours = |audience: &Value| self.audiences.iter().any(|known| audience == known);
        match claims.get("aud") {
            None | Some(Value::Null) if self.audiences.is_empty() => Ok(()),
            None | Some(Value::Null) => Err(AuthError::MissingClaim("aud")),
            Some(Value::Array(audiences)) if audiences.iter().any(is_ours) => Ok(()),
            Some(audience) if is_ours(audience) => Ok(()),
            Some(_) => Err(AuthError::OtherAudience),
        }
    }
}

fn decode(part: &str) -> Result<Vec<u8>, AuthError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| AuthError::Malformed("a part of it is no base64url"))
}

fn object(part: &str) -> Result<Map<String, Value>, AuthError> {
    serde_json::from_slice(&decode(part)?).map_err(|_| AuthError::Malformed("a part of it is no JSON object"))
}

#[cfg(test)]
mod tests {
    use super::*;

    use expect_test::expect;
    use proptest::prelude::*;
    use serde_json::json;

    use crate::testing::{NOON, Signer, content, noon};

    const SECRET: &str = "a secret of at least thirty-two bytes";

    fn signer() -> Signer {
        Signer::Secret(SECRET.as_bytes().to_vec())
    }

    fn keys(jwks: &[Value]) -> KeySet {
        KeySet::from_file(json!({ "keys": jwks }).to_string().as_bytes()).expect("keys")
    }

    fn check(rules: &Rules, keys: &KeySet, token: &str, now: SystemTime) -> Result<Claims, AuthError> {
        rules.check(keys, token, now).map_err(|refused| refused.error)
    }

    /// What is said to a token with this content at noon, a line each.
    fn told(rules: &Rules, contents: &[Value]) -> String {
        let keys = KeySet::from_secret(SECRET.as_bytes()).expect("a secret");
        let mut told = String::new();
        for content in contents {
            let answer = match check(rules, &keys, &signer().token(None, content), noon(0)) {
                Ok(claims) => format!("{:?}", claims.subject().unwrap_or("nobody")),
                Err(error) => format!("{}: {error}", error.code()),
            };
            told += &format!("{}\n    {answer}\n", content.to_string().replace(&NOON.to_string(), "NOON"));
        }
        told
    }

    /// A public key and `algorithms = ["HS256"]`: every token was refused, and nobody was told why.
    #[test]
    fn keys_that_no_token_can_be_of_are_refused() {
        let open = |algorithms: &[Algorithm]| {
            let rules = Rules { algorithms: algorithms.iter().copied().collect(), ..Rules::default() };
            Verifier::open(KeySource::Secret(SECRET.to_owned()), rules).map(drop).map_err(|fault| fault.to_string())
        };
        let expected =
            "no token can hold: the keys are for HS256, and tokens are taken that are signed with RS256, EdDSA";
        assert_eq!(open(&[Algorithm::EdDsa, Algorithm::Rs256]), Err(expected.to_owned()));
        assert_eq!(open(&[Algorithm::EdDsa, Algorithm::Hs256]), Ok(()));
        // Which keys an address has is not known yet.
        let url = "https://id.shop.example/keys".to_owned();
        let rules = Rules { algorithms: [Algorithm::Es256].into(), ..Rules::default() };
        assert!(Verifier::open(KeySource::Address { url, authorities: None }, rules).is_ok());
    }

    /// The examples of RFC 7515 (A.1 to A.3), as they are printed there, and tokens that node's
    /// `crypto` has signed: others' signatures, at the time at which they were good.
    #[test]
    fn tokens_of_others_are_read() {
        const JOE: &str =
            "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        const ANN: &str = "eyJpc3MiOiJqb2UiLCJzdWIiOiJhbm4iLCJleHAiOjEzMDA4MTkzODB9";
        let hs256 = json!({ "kty": "oct",
            "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow" });
        let rs256 = json!({ "kty": "RSA", "e": "AQAB",
            "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yR\
                  T-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXB\
                  dQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9ia\
                  GNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ" });
        let es256 = json!({ "kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" });
        let node_rsa = "-----BEGIN RSA PUBLIC KEY-----
            MIIBCgKCAQEAuH8MhrM5wuvYXIle74ugXlualCWcBPwFfi5w5ki7LwE4cWXNOlUb
            S5T4hanqRe+n8f8yLNhE3+Qg7gSdvLasoPAT75fkwAYjXQMmFB3JgAHdnQFzZOhE
            0t4F4NhGIQec6d5hz652d7fqb8AgqHHq3LhMAvy0ha07pBRgIzgSOgBfUylEB8jd
            5FqRDBzMVrTzOqVUXbscKw+aHeOKqueP+K7kR+PI0A0iBNJcBnHeu8/TUX+rMlrP
            NhZbLeu0YWQzgxVNlrONkiReRNNhQp5uDlsH1jwpe7oNvksNSqFJZhDYsrqT55PE
            DtNsSFtVD0Cd0DNwVWVpG/xo9i+VoPI7uwIDAQAB
            -----END RSA PUBLIC KEY-----";
        let node_ec = "-----BEGIN PUBLIC KEY-----
            MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE84qTiEvgCj4nol0A9vHmtT/PGqOx
            PLNhcTxkVrZnh1M8toH84563rncyWtAcKmk3KOex7kjdBCq4IFrakvladQ==
            -----END PUBLIC KEY-----";
        let node_ed = "-----BEGIN PUBLIC KEY-----
            MCowBQYDK2VwAyEArICrE1PMYAxGD871/HjqQsvNLpG6VnfIYYD95tn5IHY=
            -----END PUBLIC KEY-----";
        let theirs = [
            (
                hs256.to_string(),
                "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
                JOE,
                "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
            ),
            (
                rs256.to_string(),
                "eyJhbGciOiJSUzI1NiJ9",
                JOE,
                "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdb\
              F9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383\
              LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWy\
              wlVmtVrBp0igcN_IoypGlUPQGe77Rw",
            ),
            (
                es256.to_string(),
                "eyJhbGciOiJFUzI1NiJ9",
                JOE,
                "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            ),
            (
                node_rsa.to_owned(),
                "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9",
                ANN,
                "L8hCZ_jt0TyWcfWjMpEpInlbUie2XC65NRG4T6DCTIGdik2LGWgFoZ0WFPdRTuapyb0VpfNY6REi_QUnDLGb6oFOXREJc2nmWc5fWueb\
              yjYbayOWKgDP4iMjkL9ScclPzVw9kCteYfJydMBxM0ee-QpASx4KualweFGJSbn9oLftjtP5tBE_cle_W7T8lY12A-x2SipH6WPe0CrX\
              RFOjTfG82-f9SLDPjliARDpZnxTTuXnQd6a67WIJ-f-RhmQ1N-au0ikeGlj8AmMr9TIQnivTI_iDq1sO9eARW5k-uPHzf6nRGjkILly1\
              BAAgZe0IJ0d-_J9oy-4WEGNugtlFzg",
            ),
            (
                node_ec.to_owned(),
                "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9",
                ANN,
                "g7MlJTdig14rpVukx-RBmxMBskJauE3a1dq-B5KGKFtihHv51OVKy1HUiFF35sudakOEC92UHMkpyl7sH9vkKw",
            ),
            (
                node_ed.to_owned(),
                "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9",
                ANN,
                "Oeknrd-kuHkDarrroh_LdMRchbzUmekJA4hzdW4deSOSnauN_l32AOU_5_6kaDvNB5vyWP9H6j-L3gqIe7pYDQ",
            ),
        ];
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        for (key, header, payload, signature) in &theirs {
            let keys = KeySet::from_file(key.as_bytes()).expect("a key");
            let token = format!("{header}.{payload}.{signature}");
            let claims = check(&Rules::default(), &keys, &token, at(1_300_819_379)).expect("a good token");
            assert_eq!((claims.get("iss"), claims.expires()), (Some(&"joe".into()), Some(at(1_300_819_380))));
            assert_eq!(check(&Rules::default(), &keys, &token, at(1_300_819_440)), Err(AuthError::Expired));
            // Of another content the signature is not, nor is any other's.
            let forged = format!("{header}.{}.{signature}", if *payload == JOE { ANN } else { JOE });
            assert_eq!(check(&Rules::default(), &keys, &forged, at(0)), Err(AuthError::BadSignature));
        }
    }

    #[test]
    fn each_algorithm_has_its_kind_of_key() {
        for signer in [signer(), Signer::rsa(), Signer::ec(), Signer::ed()] {
            let (keys, token) = (keys(&[signer.jwk("k1")]), signer.token(Some("k1"), &content()));
            let claims = check(&Rules::default(), &keys, &token, noon(0)).expect("a good token");
            assert_eq!((claims.subject(), claims.get("role")), (Some("ann"), Some(&"clerk".into())));
            let algorithm = signer.algorithm().parse().expect("an algorithm");
            let mut rules = Rules::default();
            rules.algorithms.remove(&algorithm);
            assert_eq!(check(&rules, &keys, &token, noon(0)), Err(AuthError::AlgorithmRefused), "{algorithm}");
            let only = Rules { algorithms: BTreeSet::from([algorithm]), ..Rules::default() };
            assert!(check(&only, &keys, &token, noon(0)).is_ok(), "{algorithm}");
        }
    }

    /// The old trick: the public key, which everybody has, is given to HMAC for a secret. A key of RSA
    /// is for RS256 and nothing else, so that there is no key for such a token.
    #[test]
    fn a_public_key_is_no_secret() {
        for signer in [Signer::rsa(), Signer::ec(), Signer::ed()] {
            let jwk = signer.jwk("k1");
            let keys = keys(std::slice::from_ref(&jwk));
            for part in ["n", "x"].iter().filter_map(|part| jwk[part].as_str()) {
                for secret in [part.as_bytes().to_vec(), URL_SAFE_NO_PAD.decode(part).expect("base64url")] {
                    for id in [None, Some("k1")] {
                        let token = Signer::Secret(secret.clone()).token(id, &content());
                        assert_eq!(check(&Rules::default(), &keys, &token, noon(0)), Err(AuthError::UnknownKey));
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_token_is_refused_with_the_reason() {
        let keys = KeySet::from_secret(SECRET.as_bytes()).expect("a secret");
        let (signer, content) = (signer(), content());
        let good = signer.token(None, &content);
        let with = |header: Value| signer.sign(&header, &content);
        let cut = |parts: usize| good.split('.').take(parts).collect::<Vec<_>>().join(".");
        let tokens = [
            ("nothing", String::new()),
            ("one part", cut(1)),
            ("two parts", cut(2)),
            ("no signature", cut(2) + "."),
            ("four parts", good.clone() + ".AA"),
            ("five parts", good.clone() + ".AA.AA"),
            ("padding", good.clone() + "="),
            ("a space", format!(" {good}")),
            ("a list for a header", signer.sign(&json!([]), &content)),
            ("a header cut off", format!("eyJ.{}", cut(3).split_once('.').expect("parts").1)),
            ("no algorithm", with(json!({}))),
            ("none", with(json!({ "alg": "none" }))),
            ("None", with(json!({ "alg": "None" })).rsplit_once('.').expect("parts").0.to_owned() + "."),
            ("another case", with(json!({ "alg": "hs256" }))),
            ("a longer hash", with(json!({ "alg": "HS512" }))),
            ("an algorithm that is no text", with(json!({ "alg": ["HS256"] }))),
            ("critical", with(json!({ "alg": "HS256", "crit": ["b64"], "b64": false }))),
            ("a key that is no text", with(json!({ "alg": "HS256", "kid": 7 }))),
            ("a key that is null", with(json!({ "alg": "HS256", "kid": null }))),
            ("a key that nobody gave a name", with(json!({ "alg": "HS256", "kid": "k" }))),
            ("another algorithm", with(json!({ "alg": "RS256" }))),
            ("another secret", Signer::Secret(b"another secret of thirty-two bytes".to_vec()).token(None, &content)),
            ("a content that is no object", signer.token(None, &json!(["ann"]))),
        ];
        let told: String = tokens
            .iter()
            .map(|(what, token)| match check(&Rules::default(), &keys, token, noon(0)) {
                Ok(_) => format!("{what}: accepted\n"),
                Err(error) => format!("{what}: {error}\n"),
            })
            .collect();
        expect![[r#"
            nothing: the token can't be read: it has not three parts with points between them
            one part: the token can't be read: it has not three parts with points between them
            two parts: the token can't be read: it has not three parts with points between them
            no signature: the token's signature is wrong
            four parts: the token can't be read: it has not three parts with points between them
            five parts: the token can't be read: it is encrypted, and only signed ones are read
            padding: the token can't be read: a part of it is no base64url
            a space: the token can't be read: a part of it is no base64url
            a list for a header: the token can't be read: a part of it is no JSON object
            a header cut off: the token can't be read: a part of it is no base64url
            no algorithm: the token is signed with an algorithm that is not accepted here
            none: the token is signed with an algorithm that is not accepted here
            None: the token is signed with an algorithm that is not accepted here
            another case: the token is signed with an algorithm that is not accepted here
            a longer hash: the token is signed with an algorithm that is not accepted here
            an algorithm that is no text: the token is signed with an algorithm that is not accepted here
            critical: the token can't be read: its header has `crit`
            a key that is no text: the token can't be read: its `kid` is not a text
            a key that is null: accepted
            a key that nobody gave a name: accepted
            another algorithm: the token is signed with a key that is not known here
            another secret: the token's signature is wrong
            a content that is no object: the token can't be read: a part of it is no JSON object
        "#]]
        .assert_eq(&told);
    }

    #[test]
    fn a_token_has_at_most_8_kilobytes() {
        let keys = KeySet::from_secret(SECRET.as_bytes()).expect("a secret");
        // Base64 has no text of every length: the name of the key makes up for what the content can't.
        let of = |bytes: usize| {
            let filled = |(fill, name): (usize, usize)| {
                let mut content = content();
                content["fill"] = "x".repeat(fill).into();
                signer().token(Some(&"k".repeat(name)), &content)
            };
            let fills = (bytes * 3 / 4 - 200..bytes * 3 / 4).flat_map(|fill| (0..4).map(move |name| (fill, name)));
            fills.map(filled).find(|token| token.len() == bytes).expect("a token")
        };
        let told = |bytes| check(&Rules::default(), &keys, &of(bytes), noon(0)).map(drop);
        assert_eq!((told(8192), told(8193)), (Ok(()), Err(AuthError::TooLong)));
    }

    /// The skew counts for the client, at both ends.
    #[test]
    fn a_token_has_its_time() {
        let keys = KeySet::from_secret(SECRET.as_bytes()).expect("a secret");
        let token = signer().token(None, &json!({ "nbf": NOON - 10, "iat": NOON - 20, "exp": NOON + 10 }));
        let rules = Rules { clock_skew: Duration::from_secs(5), ..Rules::default() };
        for (seconds, expected) in [
            (-16, Err(AuthError::NotYetValid)),
            (-15, Ok(())),
            (9, Ok(())),
            (14, Ok(())),
            (15, Err(AuthError::Expired)),
        ] {
            assert_eq!(check(&rules, &keys, &token, noon(seconds)).map(drop), expected, "at {seconds}");
        }
        let of_tomorrow = signer().token(None, &json!({ "iat": NOON + 10, "exp": NOON + 20 }));
        assert_eq!(check(&rules, &keys, &of_tomorrow, noon(4)), Err(AuthError::NotYetValid));
        assert!(check(&rules, &keys, &of_tomorrow, noon(5)).is_ok());
    }

    #[test]
    fn expiry_is_required_unless_told_otherwise() {
        let contents = [json!({ "sub": "ann" }), json!({ "sub": "ann", "exp": null }), json!({ "exp": NOON - 60 })];
        expect![[r#"
            {"sub":"ann"}
                invalid_token: the token has no `exp`
            {"exp":null,"sub":"ann"}
                invalid_token: the token has no `exp`
            {"exp":NOON}
                "nobody"
        "#]]
        .assert_eq(&told(&Rules::default(), &[contents[0].clone(), contents[1].clone(), json!({ "exp": NOON })]));
        expect![[r#"
            {"sub":"ann"}
                "ann"
            {"exp":null,"sub":"ann"}
                "ann"
            {"exp":1799999940}
                expired_token: the token has expired
        "#]]
        .assert_eq(&told(&Rules { expiry_required: false, ..Rules::default() }, &contents));
    }

    #[test]
    fn a_token_may_be_too_long_lived() {
        let rules = Rules { lifetime_max: Some(Duration::from_secs(300)), ..Rules::default() };
        expect![[r#"
            {"exp":1800000300,"iat":NOON,"sub":"ann"}
                "ann"
            {"exp":1800000301,"iat":NOON,"sub":"ann"}
                invalid_token: the token is valid for longer than is accepted here
            {"exp":1800000300,"sub":"ann"}
                invalid_token: the token has no `iat`
        "#]]
        .assert_eq(&told(
            &rules,
            &[
                json!({ "sub": "ann", "iat": NOON, "exp": NOON + 300 }),
                json!({ "sub": "ann", "iat": NOON, "exp": NOON + 301 }),
                json!({ "sub": "ann", "exp": NOON + 300 }),
            ],
        ));
        let endless = Rules { expiry_required: false, ..rules };
        assert_eq!(
            told(&endless, &[json!({ "iat": NOON })]),
            "{\"iat\":NOON}\n    invalid_token: the token has no `exp`\n"
        );
    }

    #[test]
    fn issuer_and_audience_are_as_configured() {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let rules = Rules {
            issuers: texts(&["https://a.example", "https://b.example"]),
            audiences: texts(&["live", "api"]),
            ..Rules::default()
        };
        let with =
            |issuer: Value, audience: Value| json!({ "sub": "ann", "exp": NOON, "iss": issuer, "aud": audience });
        let ours = "https://a.example";
        expect![[r#"
            {"aud":"live","exp":NOON,"iss":"https://a.example","sub":"ann"}
                "ann"
            {"aud":["other","api"],"exp":NOON,"iss":"https://b.example","sub":"ann"}
                "ann"
            {"aud":"live","exp":NOON,"iss":"https://a.example/","sub":"ann"}
                invalid_token: the token is from another issuer
            {"aud":"live","exp":NOON,"iss":["https://a.example"],"sub":"ann"}
                invalid_token: the token is from another issuer
            {"aud":"live","exp":NOON}
                invalid_token: the token has no `iss`
            {"aud":"Live","exp":NOON,"iss":"https://a.example","sub":"ann"}
                invalid_token: the token is meant for another audience
            {"aud":[],"exp":NOON,"iss":"https://a.example","sub":"ann"}
                invalid_token: the token is meant for another audience
            {"aud":[["live"]],"exp":NOON,"iss":"https://a.example","sub":"ann"}
                invalid_token: the token is meant for another audience
            {"aud":{"live":true},"exp":NOON,"iss":"https://a.example","sub":"ann"}
                invalid_token: the token is meant for another audience
            {"aud":null,"exp":NOON,"iss":"https://a.example","sub":"ann"}
                invalid_token: the token has no `aud`
            {"exp":NOON,"iss":"https://a.example"}
                invalid_token: the token has no `aud`
        "#]]
        .assert_eq(&told(
            &rules,
            &[
                with(ours.into(), "live".into()),
                with("https://b.example".into(), json!(["other", "api"])),
                with("https://a.example/".into(), "live".into()),
                with(json!([ours]), "live".into()),
                json!({ "exp": NOON, "aud": "live" }),
                with(ours.into(), "Live".into()),
                with(ours.into(), json!([])),
                with(ours.into(), json!([["live"]])),
                with(ours.into(), json!({ "live": true })),
                with(ours.into(), Value::Null),
                json!({ "exp": NOON, "iss": ours }),
            ],
        ));
        expect![[r#"
            {"aud":null,"exp":NOON,"iss":"https://anybody.example","sub":"ann"}
                "ann"
            {"aud":"other","exp":NOON,"iss":"https://anybody.example","sub":"ann"}
                invalid_token: the token is meant for another audience
            {"aud":[],"exp":NOON,"iss":"https://anybody.example","sub":"ann"}
                invalid_token: the token is meant for another audience
        "#]]
        .assert_eq(&told(
            &Rules::default(),
            &[
                with("https://anybody.example".into(), Value::Null),
                with("https://anybody.example".into(), "other".into()),
                with("https://anybody.example".into(), json!([])),
            ],
        ));
    }

    proptest! {
        /// Whatever byte is changed, cut out or put in, and wherever: it is another token, and no good.
        #[test]
        fn a_token_is_good_as_it_is_or_not_at_all(
            (kind, how) in (0..3_usize, 0..3), at in 0..400_usize, byte in any::<u8>(),
        ) {
            let signer = [signer(), Signer::ec(), Signer::ed()].into_iter().nth(kind).expect("a signer");
            let good = signer.token(None, &content());
            let mut token = good.clone().into_bytes();
            let at = at % token.len();
            match how {
                0 => token[at] = byte,
                1 => drop(token.remove(at)),
                _ => token.insert(at, byte),
            }
            let Ok(token) = String::from_utf8(token) else { return Ok(()) };
            let answer = check(&Rules::default(), &keys(&[signer.jwk("k")]), &token, noon(0));
            prop_assert_eq!(answer.is_ok(), token == good, "{:?}", answer);
        }
    }
}
