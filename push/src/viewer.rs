//! Who looks: the roles and claims of a client, and what they let it see.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use filter::Predicate;
use filter::access::ANONYMOUS;
use serde_json::{Map, Value};

use crate::hub::Projection;
use crate::protocol::Refusal;

/// A client, as policies know it. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Viewer {
    roles: Arc<BTreeSet<String>>,
    claims: Arc<Map<String, Value>>,
}

impl Default for Viewer {
    /// A client without a token.
    fn default() -> Viewer {
        // Most idle connections are this one's.
        static STRANGER: LazyLock<Viewer> = LazyLock::new(|| Viewer::new([ANONYMOUS.to_owned()].into(), Map::new()));
        STRANGER.clone()
    }
}

/// What of a projection a client may see.
#[derive(Clone, Debug, PartialEq)]
pub struct Sight {
    /// Which rows.
    pub rows: Predicate,
    /// Which columns; at least one.
    pub columns: BTreeSet<usize>,
}

impl Viewer {
    /// A client with these roles and the claims of its token.
    #[must_use]
    pub fn new(roles: BTreeSet<String>, claims: Map<String, Value>) -> Viewer {
        Viewer { roles: Arc::new(roles), claims: Arc::new(claims) }
    }

    /// What of a projection this client may see; `None` when that is nothing at all.
    #[must_use]
    pub fn sight(&self, info: &Projection) -> Option<Sight> {
        if info.access.is_private() {
            return None;
        }
        let columns = info.access.columns(&self.roles, &info.schema);
        // Rows are merged by their key: without it there is nothing to show.
        let has_key = info.key.iter().flatten().all(|column| columns.contains(column));
        let rows = info.access.rows(&self.roles, &self.claims, &info.schema);
        (has_key && !columns.is_empty()).then_some(Sight { rows, columns })
    }

    /// Whether this client may be told everything of a projection: what is wrong with some row of it
    /// names the row.
    #[must_use]
    pub fn sees_all(&self, info: &Projection) -> bool {
        let all = info.schema.fields().len();
        self.sight(info).is_some_and(|sight| sight.rows.is_all() && sight.columns.len() == all)
    }

    /// Why a projection can't be served. The reason names a row, which is not for everybody.
    #[must_use]
    pub fn failure(&self, info: &Projection, reason: &str) -> Refusal {
        let reason = if self.sees_all(info) { reason } else { "it can't be served now; the server's log says why" };
        Refusal::new("projection_failed", reason)
    }

    /// That there is nothing of a projection for this client.
    #[must_use]
    pub fn nothing_of(&self, info: &Projection) -> Refusal {
        Refusal::new("forbidden", format!("`{}` is not for you: no policy or grant shows you any of it", info.name))
    }
}
