//! Subjects and tokens that were cut off.
//!
//! A token is good until it expires, whatever happens meanwhile; so what is known to be bad is
//! remembered here, by digest, for as long as a token of it could still be valid. Where tokens have a
//! longest lifetime ([`Rules::lifetime_max`](crate::Rules::lifetime_max)) that is known. Where they have
//! not, or more is revoked than there is room for, the oldest revocations are forgotten in a way that
//! lets nothing pass: *all* tokens issued up to then are refused, and their owners sign in again.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};

use crate::claims::Claims;
use crate::error::AuthError;
use crate::verify::Rules;

/// Revocations that are remembered, one by one: about 10 MB.
pub const REVOCATIONS_MAX: usize = 100_000;

/// What was cut off. Clones are the same list. It is kept in memory: whoever issues the tokens must
/// stop issuing them too, and a restart forgets what was revoked before it.
#[derive(Clone, Debug)]
pub struct Revocations(Arc<RwLock<Table>>);

#[derive(Debug)]
struct Table {
    cuts: HashMap<Name, Cut>,
    /// Tokens that were issued up to here are refused, whoever's they are.
    floor: Option<SystemTime>,
    capacity: usize,
    lifetime_max: Option<Duration>,
    clock_skew: Duration,
}

/// A digest, so that memory is bounded whatever subjects are called.
type Name = [u8; 32];

#[derive(Clone, Copy, Debug)]
struct Cut {
    /// When it was cut off.
    at: SystemTime,
    /// From then on no token of it can be valid. `None` when that is not known.
    forget: Option<SystemTime>,
}

impl Revocations {
    /// Nobody is cut off. The rules are those that tokens are checked by.
    #[must_use]
    pub fn new(rules: &Rules) -> Revocations {
        Revocations::with_capacity(rules, REVOCATIONS_MAX)
    }

    fn with_capacity(rules: &Rules, capacity: usize) -> Revocations {
        let (lifetime_max, clock_skew) = (rules.lifetime_max, rules.clock_skew);
        Revocations(Arc::new(RwLock::new(Table {
            cuts: HashMap::new(),
            floor: None,
            capacity,
            lifetime_max,
            clock_skew,
        })))
    }

    /// Refuses from now on every token of this subject that was issued up to now, by the issuer's
    /// clock, and every one that does not tell when it was issued. One that is issued later is good.
    ///
    /// Tokens tell whole seconds as a rule: one that is issued in this very second is refused too.
    pub fn revoke_subject(&self, subject: &str, now: SystemTime) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let forget = table.lifetime_max.map(|lifetime| now + lifetime + table.clock_skew);
        table.add(name("sub", subject), Cut { at: now, forget }, now);
    }

    /// Refuses one token, by its `jti`, from now on. `expires` is its `exp`, if that is known: it is
    /// remembered until then.
    pub fn revoke_token(&self, token_id: &str, expires: Option<SystemTime>, now: SystemTime) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let skew = table.clock_skew;
        // Issued at the latest when our clock is behind by the skew.
        let longest = table.lifetime_max.map(|lifetime| now + skew + lifetime);
        let forget = expires.or(longest).map(|last| last + skew);
        table.add(name("jti", token_id), Cut { at: now, forget }, now);
    }

    /// Whether a token has been revoked.
    ///
    /// # Errors
    /// [`AuthError::Revoked`]
    pub fn check(&self, claims: &Claims) -> Result<(), AuthError> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let was_issued_by = |moment: SystemTime| claims.issued_at().is_none_or(|issued| issued <= moment);
        if table.floor.is_some_and(was_issued_by) {
            return Err(AuthError::Revoked);
        }
        if table.cuts.is_empty() {
            return Ok(());
        }
        let cut = |kind, text: Option<&str>| text.and_then(|text| table.cuts.get(&name(kind, text)));
        let subject_is_cut = cut("sub", claims.subject()).is_some_and(|cut| was_issued_by(cut.at));
        if subject_is_cut || cut("jti", claims.token_id()).is_some() {
            return Err(AuthError::Revoked);
        }
        Ok(())
    }

    /// How many are remembered one by one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).cuts.len()
    }

    /// Whether none is remembered one by one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Table {
    fn add(&mut self, name: Name, cut: Cut, now: SystemTime) {
        self.cuts.insert(name, cut);
        if self.cuts.len() <= self.capacity {
            return;
        }
        self.cuts.retain(|_, cut| cut.forget.is_none_or(|forget| now < forget));
        if self.cuts.len() <= self.capacity {
            return;
        }
        // A tenth at a time, so that this is not done for each one that comes.
        let mut moments: Vec<SystemTime> = self.cuts.values().map(|cut| cut.at).collect();
        let (_, &mut floor, _) = moments.select_nth_unstable(self.capacity / 10);
        tracing::warn!("too many revocations: every token issued before the oldest tenth of them is refused");
        self.floor = self.floor.max(Some(floor));
        self.cuts.retain(|_, cut| floor < cut.at);
    }
}

fn name(kind: &str, text: &str) -> Name {
    let mut bytes = kind.as_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    digest(&SHA256, &bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::{Value, json};

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn is_revoked(revocations: &Revocations, claims: Value) -> bool {
        let Value::Object(all) = claims else { panic!("an object: {claims}") };
        revocations.check(&Claims::read(all).expect("claims")).is_err()
    }

    #[test]
    fn what_a_subject_was_given_before_is_refused() {
        let revocations = Revocations::new(&Rules::default());
        assert!(revocations.is_empty() && !is_revoked(&revocations, json!({ "sub": "ann" })));
        revocations.revoke_subject("ann", at(100) + Duration::from_millis(500));
        for (claims, expected) in [
            (json!({ "sub": "ann", "iat": 99 }), true),
            (json!({ "sub": "ann", "iat": 100 }), true),
            (json!({ "sub": "ann", "iat": 100.5 }), true),
            (json!({ "sub": "ann", "iat": 101 }), false),
            (json!({ "sub": "ann" }), true),
            (json!({ "sub": "bob", "iat": 1 }), false),
            (json!({ "sub": "bob", "jti": "ann" }), false),
            (json!({}), false),
        ] {
            assert_eq!(is_revoked(&revocations, claims.clone()), expected, "{claims}");
        }
        revocations.revoke_subject("ann", at(200));
        assert!(is_revoked(&revocations, json!({ "sub": "ann", "iat": 150 })), "the last time counts");
        assert_eq!(revocations.len(), 1);
    }

    #[test]
    fn one_token_is_refused_whenever_it_was_issued() {
        let revocations = Revocations::new(&Rules::default());
        revocations.revoke_token("t1", None, at(100));
        assert!(is_revoked(&revocations, json!({ "sub": "ann", "jti": "t1", "iat": 50 })));
        assert!(is_revoked(&revocations, json!({ "jti": "t1", "iat": 500 })));
        assert!(!is_revoked(&revocations, json!({ "sub": "t1", "jti": "t2", "iat": 50 })));
        assert_eq!(AuthError::Revoked.code(), "revoked_token");
    }

    /// Of these no token can be valid any more, so nobody else has to suffer for the room they take.
    #[test]
    fn what_can_no_longer_matter_is_forgotten_first() {
        let rules = Rules {
            lifetime_max: Some(Duration::from_secs(1000)),
            clock_skew: Duration::from_secs(60),
            ..Rules::default()
        };
        // Revoked at 100: subjects are remembered until 1160, tokens until 1220 or their own end.
        for (now, left) in [(1159, 3), (1160, 2), (1219, 2), (1220, 1)] {
            let revocations = Revocations::with_capacity(&rules, 3);
            revocations.revoke_subject("ann", at(100));
            revocations.revoke_token("t1", None, at(100));
            revocations.revoke_token("t2", Some(at(9940)), at(100));
            assert_eq!(revocations.len(), 3);
            let full = Revocations::clone(&revocations);
            full.revoke_subject("bob", at(now));
            let is_let_go = revocations.len() == left + 1;
            let is_floored = is_revoked(&revocations, json!({ "sub": "eve", "iat": 100 }));
            // With three left there was no room, and everybody's old tokens are refused.
            assert_eq!((is_let_go, is_floored), (left < 3, left == 3), "at {now}: {}", revocations.len());
            assert!(is_revoked(&revocations, json!({ "jti": "t2", "iat": 100 })));
            assert!(is_revoked(&revocations, json!({ "sub": "bob", "iat": 100 })));
        }
    }

    /// Full of what can't be forgotten: the oldest go, and no revoked token comes back for it.
    #[test]
    fn no_revoked_token_comes_back_for_want_of_room() {
        let revocations = Revocations::with_capacity(&Rules::default(), 100);
        for second in 0..1000 {
            revocations.revoke_subject(&format!("s{second}"), at(1000 + second));
            assert!(revocations.len() <= 100, "{}", revocations.len());
            for past in [0, second / 2, second] {
                let token = json!({ "sub": format!("s{past}"), "iat": 1000 + past });
                assert!(is_revoked(&revocations, token), "{past} at {second}");
            }
        }
        assert!(revocations.len() >= 89 && !revocations.is_empty(), "{}", revocations.len());
        assert!(is_revoked(&revocations, json!({ "sub": "other", "iat": 1900 })), "the price");
        assert!(!is_revoked(&revocations, json!({ "sub": "other", "iat": 1950 })));
        assert!(!is_revoked(&revocations, json!({ "sub": "s5", "iat": 2001 })), "signed in again");
    }
}
