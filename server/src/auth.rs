//! `[auth]` of a project to what checks tokens.

use std::collections::BTreeSet;

use auth::{Algorithm, Keeper, KeyFault, KeySource, Rules, Verifier};
use sql::config::{AuthConfig, KeysConfig, TokenAlgorithm};

/// Loads the keys; `None` when the project has none, and tokens are not taken.
///
/// # Errors
/// With what is wrong with the keys. An address that does not answer is no such thing.
pub fn open(config: &AuthConfig) -> Result<Option<(Verifier, Keeper)>, KeyFault> {
    config.keys.as_ref().map(|keys| Verifier::open(source(keys), rules(config))).transpose()
}

fn source(keys: &KeysConfig) -> KeySource {
    match keys {
        KeysConfig::Secret(secret) => KeySource::Secret(secret.expose().to_owned()),
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
        role_claim: config.role_claim.clone(),
    }
}
