//! `[auth]` of a project to what checks tokens.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use auth::fetch::Address;
use auth::{Algorithm, AuthError, Keeper, KeyFault, KeySource, Revocations, Rules, Verifier};
use filter::ClaimPath;
use push::protocol::Refusal;
use push::serve::identity::Identifying;
use push::serve::{Authenticator, Identity};
use push::viewer::Viewer;
use sql::config::{AuthConfig, KeysConfig, Secret, TokenAlgorithm};

/// Loads the keys; `None` when the project has none, and tokens are not taken.
///
/// # Errors
/// With what is wrong with the keys. An address that does not answer is no such thing.
pub fn open(config: &AuthConfig) -> Result<Option<(Verifier, Keeper)>, KeyFault> {
    config.keys.as_ref().map(|keys| Verifier::open(source(keys), rules(config))).transpose()
}

/// The address that keys are fetched from in a way in which others can change them.
#[must_use]
pub fn exposed_keys(config: &AuthConfig) -> Option<&str> {
    match &config.keys {
        Some(KeysConfig::Address { url, authorities }) => {
            Address::parse(url, authorities.as_deref()).is_ok_and(|address| address.is_exposed()).then_some(url)
        }
        _ => None,
    }
}

fn source(keys: &KeysConfig) -> KeySource {
    match keys {
        KeysConfig::Secret(secret) => KeySource::Secret(secret.expose().to_owned()),
        KeysConfig::SecretFile(path) => KeySource::SecretFile(path.clone()),
        KeysConfig::File(path) => KeySource::File(path.clone()),
        KeysConfig::Address { url, authorities } => {
            KeySource::Address { url: url.clone(), authorities: authorities.clone() }
        }
    }
}

fn rules(config: &AuthConfig) -> Rules {
    let algorithms: BTreeSet<Algorithm> = config
        .algorithms
        .iter()
        .map(|algorithm| match algorithm {
            TokenAlgorithm::HS256 => Algorithm::Hs256,
            TokenAlgorithm::RS256 => Algorithm::Rs256,
            TokenAlgorithm::ES256 => Algorithm::Es256,
            TokenAlgorithm::EdDSA => Algorithm::EdDsa,
        })
        .collect();
    Rules {
        algorithms: if algorithms.is_empty() { BTreeSet::from(Algorithm::ALL) } else { algorithms },
        issuers: config.issuers.clone(),
        audiences: config.audiences.clone(),
        clock_skew: config.clock_skew,
        expiry_required: config.expiry_required,
        lifetime_max: config.lifetime_max,
    }
}

/// Tokens of a project that takes them.
pub struct Tokens {
    verifier: Verifier,
    revocations: Revocations,
    role_claim: ClaimPath,
    cookie: Option<String>,
    grace: Duration,
    admin_token: Option<Secret>,
}

impl Tokens {
    /// What `[auth]` says, with the keys that it names.
    #[must_use]
    pub fn new(config: &AuthConfig, verifier: Verifier) -> Tokens {
        Tokens {
            revocations: Revocations::new(verifier.rules()),
            verifier,
            role_claim: config.role_claim.clone(),
            cookie: config.cookie.clone(),
            grace: config.grace,
            admin_token: config.admin_token.clone(),
        }
    }
}

impl Authenticator for Tokens {
    fn identify(&self, token: String) -> Identifying {
        let (verifier, revocations, role_claim) =
            (self.verifier.clone(), self.revocations.clone(), self.role_claim.clone());
        Box::pin(async move {
            let refused = |error: AuthError| Refusal::new(error.code(), error.to_string());
            let claims = verifier.verify_fetching(&token, SystemTime::now()).await.map_err(refused)?;
            revocations.check(&claims).map_err(refused)?;
            let roles = filter::access::roles(Some(claims.all()), &role_claim);
            Ok(Identity {
                viewer: Viewer::new(roles, claims.all().clone()),
                subject: claims.subject().map(Arc::from),
                expires: claims.expires(),
            })
        })
    }

    fn cookie(&self) -> Option<&str> {
        self.cookie.as_deref()
    }

    fn grace(&self) -> Duration {
        self.grace
    }

    fn has_admins(&self) -> bool {
        self.admin_token.is_some()
    }

    fn is_admin(&self, token: &str) -> bool {
        // Hashes are compared in the same time wherever they differ.
        let hash = |text: &str| blake3::hash(text.as_bytes());
        self.admin_token.as_ref().is_some_and(|admin| hash(admin.expose()) == hash(token))
    }

    fn revoke(&self, subject: &str) {
        self.revocations.revoke_subject(subject, SystemTime::now());
    }
}
