//! Who sees what of a projection.
//!
//! Rows as in Postgres: a row is shown when a permissive policy that applies to one of the client's roles is true
//! for it, and so is every restrictive one that applies. Columns: those that are not hidden, and where anything is
//! granted, those that are granted to one of the client's roles. What nothing was said of is shown to nobody.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use arrow::datatypes::Schema;
use serde_json::{Map, Value as Json};

use crate::predicate::Predicate;
use crate::template::{ClaimPath, Template};

/// What a project says of who sees a projection. Columns are numbers in the projection's schema.
///
/// The default is of nothing said: a private projection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// `WITH (public = 'true')`: every row is for everyone, with a token or without. There are no policies then.
    pub is_public: bool,
    /// In the order in which they were written.
    pub policies: Vec<Policy>,
    /// In the order in which they were written; empty when every column that isn't hidden is for everyone.
    pub grants: Vec<Grant>,
    /// `WITH (hide = '…')`: columns that nobody sees or filters by. Policies may use them.
    pub hidden: BTreeSet<usize>,
}

/// `CREATE POLICY`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name; no two of a projection have the same.
    pub name: String,
    /// `AS RESTRICTIVE`: what others allow is narrowed by it.
    pub is_restrictive: bool,
    /// `TO …`
    pub roles: Roles,
    /// `USING (…)`
    pub using: Template,
    /// `USING (…)` as it was written, for people.
    pub text: String,
}

/// `GRANT SELECT (…) ON … TO …`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The columns, among them those of the key; `None` for all that aren't hidden.
    pub columns: Option<BTreeSet<usize>>,
    /// `TO …`
    pub roles: Roles,
}

/// Whom a policy or a grant is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roles {
    /// `PUBLIC`: whoever connects, with a token or without.
    Everyone,
    /// Those who have one of these roles.
    Named(BTreeSet<String>),
}

/// The role of a client without a token.
pub const ANONYMOUS: &str = "anonymous";
/// The role of a client whose token names none.
pub const AUTHENTICATED: &str = "authenticated";

/// The roles of a client: those that the claim at `role_claim` names, a string or an array of strings;
/// [`AUTHENTICATED`] when the token has no such claim, and [`ANONYMOUS`] when there is no token (`claims` is `None`).
///
/// A claim that is anything else gives no role: what is for everyone is all that such a client sees.
///
/// ```
/// # use filter::{ClaimPath, access::roles};
/// # let role_claim = ClaimPath::parse("role")?;
/// let of = |claims: serde_json::Value| roles(claims.as_object(), &role_claim).into_iter().collect::<Vec<_>>();
/// assert_eq!(of(serde_json::json!({"role": ["staff", "admin"]})), ["admin", "staff"]);
/// assert_eq!(of(serde_json::json!({"sub": "ann"})), ["authenticated"]);
/// assert_eq!(of(serde_json::json!({"role": 7})), [""; 0]);
/// assert!(roles(None, &role_claim).contains("anonymous"));
/// # Ok::<(), filter::FilterError>(())
/// ```
#[must_use]
pub fn roles(claims: Option<&Map<String, Json>>, role_claim: &ClaimPath) -> BTreeSet<String> {
    let Some(claims) = claims else { return [ANONYMOUS.to_owned()].into() };
    match role_claim.find(claims) {
        None | Some(Json::Null) => [AUTHENTICATED.to_owned()].into(),
        Some(Json::String(role)) => [role.clone()].into(),
        Some(Json::Array(roles)) => roles.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
        Some(Json::Bool(_) | Json::Number(_) | Json::Object(_)) => BTreeSet::new(),
    }
}

impl Roles {
    /// Whether one of a client's roles is among them.
    #[must_use]
    pub fn includes(&self, roles: &BTreeSet<String>) -> bool {
        match self {
            Roles::Everyone => true,
            Roles::Named(names) => !names.is_disjoint(roles),
        }
    }
}

impl std::fmt::Display for Roles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Roles::Everyone => f.write_str("everyone"),
            Roles::Named(names) => f.write_str(&names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")),
        }
    }
}

impl Access {
    /// Whether nobody can ever see a row, since nothing says who may.
    #[must_use]
    pub fn is_private(&self) -> bool {
        !self.is_public && self.policies.iter().all(|policy| policy.is_restrictive)
    }

    /// The rows for a client with these roles and claims. A client without a token has no claims.
    #[must_use]
    pub fn rows(&self, roles: &BTreeSet<String>, claims: &Map<String, Json>, schema: &Schema) -> Predicate {
        if self.is_public {
            return Predicate::all();
        }
        let (mut allowed, mut narrowed) = (Predicate::none(), Predicate::all());
        for policy in self.policies.iter().filter(|policy| policy.roles.includes(roles)) {
            let rows = policy.using.bind(claims, schema);
            if policy.is_restrictive {
                narrowed = narrowed.and(&rows);
            } else {
                allowed = allowed.or(&rows);
            }
        }
        allowed.and(&narrowed)
    }

    /// The columns for a client with these roles; empty when the projection is not for it at all.
    #[must_use]
    pub fn columns(&self, roles: &BTreeSet<String>, schema: &Schema) -> BTreeSet<usize> {
        let shown = (0..schema.fields().len()).filter(|column| !self.hidden.contains(column));
        if self.grants.is_empty() {
            return shown.collect();
        }
        let grants: Vec<&Grant> = self.grants.iter().filter(|grant| grant.roles.includes(roles)).collect();
        let is_granted =
            |column: &usize| grants.iter().any(|it| it.columns.as_ref().is_none_or(|it| it.contains(column)));
        shown.filter(is_granted).collect()
    }

    /// The claims that decide which rows are shown: clients that agree on these and on their roles see the same.
    #[must_use]
    pub fn claims(&self) -> BTreeSet<&ClaimPath> {
        self.policies.iter().flat_map(|policy| policy.using.claims()).collect()
    }

    /// A few lines for people.
    #[must_use]
    pub fn explain(&self, schema: &Schema) -> String {
        let mut out = String::new();
        let names = |columns: &BTreeSet<usize>| {
            columns.iter().map(|column| schema.field(*column).name().as_str()).collect::<Vec<_>>().join(", ")
        };
        let mut line = |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").expect("a string takes all");
        if self.is_public {
            line(format_args!("rows: all, for everyone"));
        } else if self.is_private() {
            line(format_args!("rows: none, for no policy allows any"));
        }
        for Policy { name, is_restrictive, roles, text, .. } in &self.policies {
            let kind = if *is_restrictive { "only" } else { "rows" };
            line(format_args!("{kind} where {text}, for {roles} (policy {name})"));
        }
        for Grant { columns, roles } in &self.grants {
            match columns {
                Some(columns) => line(format_args!("columns {}, for {roles}", names(columns))),
                None => line(format_args!("columns: all, for {roles}")),
            }
        }
        if !self.hidden.is_empty() {
            line(format_args!("columns hidden: {}", names(&self.hidden)));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Literal, Operand, Operator};
    use arrow::datatypes::{DataType, Field};
    use serde_json::json;

    fn schema() -> Schema {
        Schema::new(["owner", "region", "cost"].map(|name| Field::new(name, DataType::Utf8, true)).to_vec())
    }

    fn named(names: &[&str]) -> Roles {
        Roles::Named(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn policy(is_restrictive: bool, roles: Roles, column: usize, operand: &str) -> Policy {
        let operand = match operand.strip_prefix('$') {
            Some(path) => Operand::claim(ClaimPath::parse(path).unwrap()),
            None => Operand::literal(Literal::Text(operand.to_owned())),
        };
        let using = Template::compare(Operand::Column(column), Operator::Eq, operand, &schema()).unwrap();
        Policy { name: "p".to_owned(), is_restrictive, roles, using, text: "…".to_owned() }
    }

    #[track_caller]
    fn check(policies: Vec<Policy>, roles: &[&str], expected: Json) {
        let access = Access { policies, ..Access::default() };
        let claims = json!({"sub": "ann"});
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        let rows = access.rows(&roles, claims.as_object().unwrap(), &schema());
        assert_eq!(rows, Predicate::parse(&expected, &schema(), &|_| true).unwrap());
    }

    #[test]
    fn policies_join_as_in_postgres() {
        let own = || policy(false, Roles::Everyone, 0, "$sub");
        let eu = |is_restrictive, roles| policy(is_restrictive, roles, 1, "eu");
        let (none, ann, in_eu) =
            (json!({"_or": []}), json!({"owner": {"_eq": "ann"}}), json!({"region": {"_eq": "eu"}}));
        check(vec![], &[], none.clone());
        check(vec![own()], &[], ann.clone());
        check(vec![own(), eu(false, Roles::Everyone)], &[], json!({"_or": [ann, in_eu]}));
        check(vec![own(), eu(true, Roles::Everyone)], &[], json!({"_and": [ann, in_eu]}));
        // What only narrows allows nothing.
        check(vec![eu(true, Roles::Everyone)], &[], none.clone());
        check(vec![eu(false, named(&["staff"]))], &["anonymous"], none);
        check(vec![eu(false, named(&["staff", "boss"]))], &["x", "boss"], in_eu);
        // A restrictive policy narrows those whom it is for.
        check(vec![own(), eu(true, named(&["staff"]))], &["x"], ann.clone());
        check(
            vec![own(), eu(true, named(&["staff"]))],
            &["staff"],
            json!({"_and": [ann, json!({"region": {"_eq": "eu"}})]}),
        );
    }

    /// Who a client is, by its token: only a token without a word on roles makes it `authenticated`, and what is no
    /// role gives none.
    #[test]
    fn roles_are_what_the_token_says() {
        for (claims, expected) in [
            (None, &["anonymous"][..]),
            (Some(json!({})), &["authenticated"]),
            (Some(json!({"role": null})), &["authenticated"]),
            (Some(json!({"roles": ["admin"]})), &["authenticated"]),
            (Some(json!({"role": "admin"})), &["admin"]),
            (Some(json!({"role": ["staff", "admin", "staff"]})), &["admin", "staff"]),
            (Some(json!({"role": ["staff", null, 7, ["admin"]]})), &["staff"]),
            (Some(json!({"role": []})), &[]),
            (Some(json!({"role": true})), &[]),
            (Some(json!({"role": 7})), &[]),
            (Some(json!({"role": {"admin": true}})), &[]),
        ] {
            let found = roles(claims.as_ref().and_then(Json::as_object), &ClaimPath::parse("role").unwrap());
            assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{claims:?}");
        }
    }

    #[test]
    fn what_nothing_was_said_of_is_private() {
        let access = Access::default();
        assert!(access.is_private());
        assert!(access.rows(&BTreeSet::new(), &Map::new(), &schema()).is_none());
        let access = Access { is_public: true, ..Access::default() };
        assert!(!access.is_private());
        assert!(access.rows(&BTreeSet::new(), &Map::new(), &schema()).is_all());
        let narrowing = Access { policies: vec![policy(true, Roles::Everyone, 0, "a")], ..Access::default() };
        assert!(narrowing.is_private());
        let allowing = Access { policies: vec![policy(false, named(&["x"]), 0, "$sub")], ..Access::default() };
        assert!(!allowing.is_private());
        assert_eq!(allowing.claims().into_iter().map(ClaimPath::as_str).collect::<Vec<_>>(), ["sub"]);
    }

    #[test]
    fn columns_are_those_granted_and_not_hidden() {
        let columns = |access: &Access, role: &str| -> Vec<usize> {
            access.columns(&[role.to_owned()].into(), &schema()).into_iter().collect()
        };
        let mut access = Access { hidden: [2].into(), ..Access::default() };
        assert_eq!(columns(&access, "x"), [0, 1]);
        access.grants.push(Grant { columns: Some([0].into()), roles: named(&["staff"]) });
        assert_eq!(columns(&access, "x"), [0; 0]);
        assert_eq!(columns(&access, "staff"), [0]);
        access.grants.push(Grant { columns: Some([1].into()), roles: Roles::Everyone });
        assert_eq!(columns(&access, "x"), [1]);
        assert_eq!(columns(&access, "staff"), [0, 1]);
        access.grants.push(Grant { columns: None, roles: named(&["boss"]) });
        assert_eq!(columns(&access, "boss"), [0, 1]);
        access.hidden.clear();
        assert_eq!(columns(&access, "boss"), [0, 1, 2]);
    }

    #[test]
    fn access_is_explained() {
        let access = Access {
            policies: vec![policy(false, named(&["a", "b"]), 0, "$sub"), policy(true, Roles::Everyone, 1, "eu")],
            grants: vec![
                Grant { columns: Some([0, 1].into()), roles: Roles::Everyone },
                Grant { columns: None, roles: named(&["a"]) },
            ],
            hidden: [2].into(),
            ..Access::default()
        };
        expect_test::expect![[r#"
            rows where …, for a, b (policy p)
            only where …, for everyone (policy p)
            columns owner, region, for everyone
            columns: all, for a
            columns hidden: cost
        "#]]
        .assert_eq(&access.explain(&schema()));
        let public = Access { is_public: true, ..Access::default() };
        assert_eq!(public.explain(&schema()), "rows: all, for everyone\n");
        assert_eq!(Access::default().explain(&schema()), "rows: none, for no policy allows any\n");
    }
}
