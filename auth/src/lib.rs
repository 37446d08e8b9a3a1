//! Who a client is: a token goes in, claims come out.
//!
//! ```text
//!   secret, key file, JWKS address ──► Keeper ──► keys known now
//!                                                      │
//!   token, time ──────────────────────────────────► Verifier ──► Claims ──► Revocations
//! ```
//!
//! A token is a signed JWT in its compact form (RFC 7515, RFC 7519). The signatures are AWS-LC's; the
//! form around them is read here, since all that can go wrong with it is a matter of order: nothing
//! that a token says is believed before its signature holds, and *the key* decides by which algorithm
//! that is, so that a token can't talk the server into reading a public key as a secret
//! (RFC 8725, 3.1). `none` is no algorithm.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use auth::{KeySource, Rules, Verifier};
//!
//! let secret = "a secret of at least thirty-two bytes";
//! let (verifier, _keeper) = Verifier::open(KeySource::Secret(secret.into()), Rules::default())?;
//! // {"alg":"HS256"} {"sub":"ann","role":"clerk","exp":2000000000}
//! let token = "eyJhbGciOiJIUzI1NiJ9.\
//!              eyJzdWIiOiJhbm4iLCJyb2xlIjoiY2xlcmsiLCJleHAiOjIwMDAwMDAwMDB9.\
//!              KW0YJyfHar7YSPsIOZGR1zO8A9CQEHeJouJvwFrT-RY";
//! let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
//! let claims = verifier.verify(token, now)?;
//! assert_eq!((claims.subject(), claims.get("role")), (Some("ann"), Some(&"clerk".into())));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
pub mod claims; // what a proven token says
pub mod error; // why a token is refused, and whose move it is
pub mod fetch; // one bounded HTTP request
pub mod keeper; // the task that keeps the keys fresh
pub mod key; // PEM, JWK, JWKS, secrets: keys, each with its one algorithm
pub mod revoke; // subjects and tokens that were cut off
pub mod schedule; // when keys are asked for again
#[cfg(test)]
mod testing; // signers, and a server of keys
pub mod verify; // a token and a time to claims

pub use claims::Claims;
pub use error::AuthError;
pub use keeper::{Keeper, KeyFault, KeySource, KeyStatus};
pub use key::{Algorithm, KeyError};
pub use revoke::Revocations;
pub use verify::{Rules, Verifier};
