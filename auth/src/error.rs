//! Why a token is refused.

/// Why a token is refused. The message is for the one who sent the token: it says what to do, and
/// repeats neither keys nor what the token holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// More bytes than a token may have.
    #[error("the token is longer than {} bytes", crate::verify::TOKEN_BYTES_MAX)]
    TooLong,
    /// Not a signed token in its compact form.
    #[error("the token can't be read: {0}")]
    Malformed(&'static str),
    /// Signed in a way that is not accepted here; `none` among them.
    #[error("the token is signed with an algorithm that is not accepted here")]
    AlgorithmRefused,
    /// No key that is known could have signed it.
    #[error("the token is signed with a key that is not known here")]
    UnknownKey,
    /// The keys can't be had at the moment. The token may be right.
    #[error("the keys that tokens are checked with can't be had at the moment; try again later")]
    KeysUnavailable,
    /// The signature is not the key's.
    #[error("the token's signature is wrong")]
    BadSignature,
    /// A claim that must be there is not.
    #[error("the token has no `{0}`")]
    MissingClaim(&'static str),
    /// A claim has a value of the wrong kind.
    #[error("the token's `{claim}` is not {wanted}")]
    BadClaim {
        /// Which.
        claim: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// It lives longer than tokens may here.
    #[error("the token is valid for longer than is accepted here")]
    LivesTooLong,
    /// Another issuer's.
    #[error("the token is from another issuer")]
    OtherIssuer,
    /// Meant for somebody else.
    #[error("the token is meant for another audience")]
    OtherAudience,
    /// Its subject, or the token itself, has been cut off.
    #[error("the token has been revoked; sign in again")]
    Revoked,
}

impl AuthError {
    /// For programs: one of `invalid_token`, `expired_token`, `early_token`, `revoked_token` and
    /// `keys_unavailable`. After the last the same token may be tried again; after the others a
    /// client needs a new one.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            AuthError::Expired => "expired_token",
            AuthError::NotYetValid => "early_token",
            AuthError::Revoked => "revoked_token",
            AuthError::KeysUnavailable => "keys_unavailable",
            AuthError::TooLong
            | AuthError::Malformed(_)
            | AuthError::AlgorithmRefused
            | AuthError::UnknownKey
            | AuthError::BadSignature
            | AuthError::MissingClaim(_)
            | AuthError::BadClaim { .. }
            | AuthError::LivesTooLong
            | AuthError::OtherIssuer
            | AuthError::OtherAudience => "invalid_token",
        }
    }
}
