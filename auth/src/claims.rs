//! What a proven token says.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use crate::error::AuthError;

/// The last second that a claim may name: the end of the year 9999. A time beyond it is most likely
/// in milliseconds, and such a token would never expire.
const SECONDS_MAX: f64 = 253_402_300_799.0;

/// What a token says, after its signature and its times have been checked. Clones share.
#[derive(Clone, PartialEq)]
pub struct Claims(Arc<Inner>);

#[derive(PartialEq)]
struct Inner {
    subject: Option<String>,
    token_id: Option<String>,
    issued_at: Option<SystemTime>,
    not_before: Option<SystemTime>,
    expires: Option<SystemTime>,
    all: Map<String, Value>,
}

impl Claims {
    /// Takes the registered claims (RFC 7519, 4.1) out of a token's content. What the others mean, roles among them,
    /// is for who asks for them: whatever they are, the token is right.
    ///
    /// # Errors
    /// [`AuthError::BadClaim`] for a claim of another kind than it has to be.
    pub fn read(all: Map<String, Value>) -> Result<Claims, AuthError> {
        let inner = Inner {
            subject: text(&all, "sub")?,
            token_id: text(&all, "jti")?,
            issued_at: time(&all, "iat")?,
            not_before: time(&all, "nbf")?,
            expires: time(&all, "exp")?,
            all,
        };
        Ok(Claims(Arc::new(inner)))
    }

    /// `sub`: whom the token is about.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.0.subject.as_deref()
    }

    /// `jti`: which token it is.
    #[must_use]
    pub fn token_id(&self) -> Option<&str> {
        self.0.token_id.as_deref()
    }

    /// `iat`: when the token was issued, by its issuer's clock.
    #[must_use]
    pub fn issued_at(&self) -> Option<SystemTime> {
        self.0.issued_at
    }

    /// `nbf`: the first moment at which the token is valid.
    #[must_use]
    pub fn not_before(&self) -> Option<SystemTime> {
        self.0.not_before
    }

    /// `exp`: the moment from which on the token is not valid, clock skew not added. `None` for a
    /// token that does not expire, where such are allowed.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        self.0.expires
    }

    /// A claim by its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.all.get(name)
    }

    /// Every claim, as it was written.
    #[must_use]
    pub fn all(&self) -> &Map<String, Value> {
        &self.0.all
    }
}

/// Shows who it is, and leaves the rest, which may be private, out of logs.
impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { subject, expires, .. } = &*self.0;
        f.debug_struct("Claims").field("subject", subject).field("expires", expires).finish_non_exhaustive()
    }
}

/// A text; an absent claim and one that is null are the same.
fn text(all: &Map<String, Value>, claim: &'static str) -> Result<Option<String>, AuthError> {
    match all.get(claim) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(AuthError::BadClaim { claim, wanted: "a text" }),
    }
}

/// A NumericDate: seconds since 1970 UTC, leap seconds left out; it may have a fraction.
fn time(all: &Map<String, Value>, claim: &'static str) -> Result<Option<SystemTime>, AuthError> {
    let bad = AuthError::BadClaim { claim, wanted: "a time in seconds since 1970" };
    match all.get(claim) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => {
            let seconds = number.as_f64().filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds)).ok_or(bad)?;
            // Whole seconds up to the year 9999 are exact in an f64.
            Ok(Some(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)))
        }
        Some(_) => Err(bad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use expect_test::expect;

    /// What is read of each of these, a line each.
    fn told(contents: &[&str]) -> String {
        let show = |time: Option<SystemTime>| {
            time.map(|time| time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64())
        };
        let mut told = String::new();
        for content in contents {
            let all = serde_json::from_str(content).expect("JSON");
            let answer = match Claims::read(all) {
                Ok(claims) => {
                    let times = [claims.issued_at(), claims.not_before(), claims.expires()].map(show);
                    format!("{:?} {:?} {times:?}", claims.subject(), claims.token_id())
                }
                Err(error) => format!("{}: {error}", error.code()),
            };
            told += &format!("{content}\n    {answer}\n");
        }
        told
    }

    #[test]
    fn registered_claims_are_read() {
        expect![[r#"
            {}
                None None [None, None, None]
            {"sub":"ann","jti":"t1","role":"clerk","iat":1,"nbf":2.5,"exp":3e0}
                Some("ann") Some("t1") [Some(1.0), Some(2.5), Some(3.0)]
            {"sub":null,"jti":null,"role":null,"iat":null,"nbf":null,"exp":null}
                None None [None, None, None]
            {"role":7,"email":{"of":"ann"}}
                None None [None, None, None]
            {"exp":0}
                None None [None, None, Some(0.0)]
            {"exp":253402300799}
                None None [None, None, Some(253402300799.0)]
        "#]]
        .assert_eq(&told(&[
            "{}",
            r#"{"sub":"ann","jti":"t1","role":"clerk","iat":1,"nbf":2.5,"exp":3e0}"#,
            r#"{"sub":null,"jti":null,"role":null,"iat":null,"nbf":null,"exp":null}"#,
            r#"{"role":7,"email":{"of":"ann"}}"#,
            r#"{"exp":0}"#,
            r#"{"exp":253402300799}"#,
        ]));
    }

    /// `exp` as a text is not "no expiry", and one in milliseconds is not the year 56,000.
    #[test]
    fn claims_of_another_kind_are_refused() {
        expect![[r#"
            {"sub":7}
                invalid_token: the token's `sub` is not a text
            {"jti":["a"]}
                invalid_token: the token's `jti` is not a text
            {"exp":"1300819380"}
                invalid_token: the token's `exp` is not a time in seconds since 1970
            {"exp":1700000000000}
                invalid_token: the token's `exp` is not a time in seconds since 1970
            {"exp":253402300800}
                invalid_token: the token's `exp` is not a time in seconds since 1970
            {"exp":1e300}
                invalid_token: the token's `exp` is not a time in seconds since 1970
            {"nbf":-1}
                invalid_token: the token's `nbf` is not a time in seconds since 1970
            {"iat":true}
                invalid_token: the token's `iat` is not a time in seconds since 1970
        "#]]
        .assert_eq(&told(&[
            r#"{"sub":7}"#,
            r#"{"jti":["a"]}"#,
            r#"{"exp":"1300819380"}"#,
            r#"{"exp":1700000000000}"#,
            r#"{"exp":253402300800}"#,
            r#"{"exp":1e300}"#,
            r#"{"nbf":-1}"#,
            r#"{"iat":true}"#,
        ]));
    }

    #[test]
    fn every_claim_is_kept_and_logs_show_few() {
        let all = serde_json::from_str(r#"{"sub":"ann","email":"ann@shop.example","role":["clerk"]}"#).expect("JSON");
        let claims = Claims::read(all).expect("claims");
        assert_eq!(claims.get("email"), Some(&Value::from("ann@shop.example")));
        assert_eq!((claims.get("none"), claims.all().len()), (None, 3));
        assert_eq!(format!("{claims:?}"), r#"Claims { subject: Some("ann"), expires: None, .. }"#);
        assert_eq!(claims, claims.clone());
    }
}
