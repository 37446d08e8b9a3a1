//! What the server is asked to tell of, and under whose name it tells of rows of partitions.
//!
//! A publication *via root* tells of a partition's rows as rows of the partitioned table; one that
//! is not tells of them as the partition's own, and it is for us to know which tables they are rows
//! of. The first is simpler, and what we ask for. But a partition that stands in a project beside
//! the table that it is part of would hear nothing then, since the server tells of a row once. So
//! the second is asked for where a project needs it, and taken wherever it is found.

use std::collections::HashSet;

use tokio_postgres::Client;

use super::catalog::{DiscoveredTable, quote};
use super::connect::Target;
use super::error::SourceError;

/// The publication that a source reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Its name.
    pub name: String,
    /// Whether the name is one that we gave. What others made is extended, and not changed: they
    /// may have readers of their own.
    pub is_ours: bool,
}

/// Where the rows of a table come from, in the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// The tables that it is a partition of, whichever level.
    pub ancestors: Vec<u32>,
    /// The tables that hold its rows, where it is partitioned.
    pub leaves: Vec<u32>,
}

/// Under whose name rows of partitions are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Naming {
    /// The partitioned table's.
    Root,
    /// The partition's own. The lineage is that of each table, in order.
    Partition(Vec<Lineage>),
}

/// Makes sure that the publication exists and has the tables, as far as the role may.
///
/// # Errors
/// With the SQL to run, when the role may not.
pub async fn prepare(
    target: &Target,
    client: &Client,
    publication: &Publication,
    tables: &[DiscoveredTable],
) -> Result<Naming, SourceError> {
    let Plan { naming, changes } = plan(target, client, publication, tables).await?;
    for change in changes {
        let statement = change.statement(publication);
        tracing::info!(statement, "preparing the publication");
        client.batch_execute(&statement).await.map_err(|error| {
            match error.code().map(tokio_postgres::error::SqlState::code) {
                Some("42501") => not_permitted(publication, &statement),
                _ => target.sql_error(error),
            }
        })?;
    }
    Ok(naming)
}

/// Looks whether [`prepare`] can do what it would have to, and changes nothing.
///
/// # Errors
/// As [`prepare`].
pub async fn check(
    target: &Target,
    client: &Client,
    publication: &Publication,
    tables: &[DiscoveredTable],
) -> Result<(), SourceError> {
    for change in plan(target, client, publication, tables).await?.changes {
        let (is_new, added): (bool, Vec<u32>) = match &change {
            Change::Create { tables, .. } => (true, tables.iter().map(|table| table.oid).collect()),
            Change::Add(tables) => (false, tables.iter().map(|table| table.oid).collect()),
            Change::GoByPartitions => (false, Vec::new()),
        };
        // Who may what is as Postgres's manual has it of CREATE and ALTER PUBLICATION.
        let may = client
            .query_one(
                "SELECT coalesce(CASE WHEN $1 THEN has_database_privilege(current_database(), 'CREATE')
                     ELSE (SELECT pg_has_role(pubowner, 'USAGE') FROM pg_publication WHERE pubname = $2) END, true)
                 AND NOT EXISTS (SELECT FROM pg_class WHERE oid = ANY ($3) AND NOT pg_has_role(relowner, 'USAGE'))",
                &[&is_new, &publication.name, &added],
            )
            .await
            .map_err(|error| target.sql_error(error))?;
        if !may.get::<_, bool>(0) {
            return Err(not_permitted(publication, &change.statement(publication)));
        }
    }
    Ok(())
}

fn not_permitted(publication: &Publication, statement: &str) -> SourceError {
    SourceError::NotReady {
        what: format!("the role of the url may not prepare the publication {}", publication.name),
        remedy: format!("as the tables' owner run {statement}"),
    }
}

/// What a publication needs, and how it tells of rows then.
struct Plan<'a> {
    naming: Naming,
    changes: Vec<Change<'a>>,
}

/// A change of a publication.
enum Change<'a> {
    Create { tables: Vec<&'a DiscoveredTable>, via_root: bool },
    GoByPartitions,
    Add(Vec<&'a DiscoveredTable>),
}

impl Change<'_> {
    fn statement(&self, publication: &Publication) -> String {
        let name = quote(&publication.name);
        let names = |tables: &[&DiscoveredTable]| tables.iter().map(|it| it.quoted()).collect::<Vec<_>>().join(", ");
        match self {
            Change::Create { tables, via_root } => {
                let names = names(tables);
                format!("CREATE PUBLICATION {name} FOR TABLE {names} WITH (publish_via_partition_root = {via_root})")
            }
            Change::GoByPartitions => format!("ALTER PUBLICATION {name} SET (publish_via_partition_root = false)"),
            Change::Add(tables) => format!("ALTER PUBLICATION {name} ADD TABLE {}", names(tables)),
        }
    }
}

async fn plan<'a>(
    target: &Target,
    client: &Client,
    publication: &Publication,
    tables: &'a [DiscoveredTable],
) -> Result<Plan<'a>, SourceError> {
    let sql_error = |error| target.sql_error(error);
    let lineages = lineages(target, client, tables).await?;
    let name = quote(&publication.name);
    let is_ours_too = |oid: &u32| tables.iter().any(|table| table.oid == *oid);
    let found = client
        .query_opt(
            "SELECT oid, puballtables, pubinsert AND pubupdate AND pubdelete AND pubtruncate, pubviaroot FROM pg_publication WHERE pubname = $1",
            &[&publication.name],
        )
        .await
        .map_err(sql_error)?;
    let Some(found) = found else {
        let via_root = !lineages.iter().any(|lineage| lineage.ancestors.iter().any(is_ours_too));
        let naming = if via_root { Naming::Root } else { Naming::Partition(lineages) };
        return Ok(Plan { naming, changes: vec![Change::Create { tables: distinct(tables), via_root }] });
    };
    let (oid, all_tables, all_kinds, mut via_root): (u32, bool, bool, bool) =
        (found.get(0), found.get(1), found.get(2), found.get(3));
    if !all_kinds {
        return Err(SourceError::NotReady {
            what: format!("the publication {} leaves out some kinds of change", publication.name),
            remedy: format!("run ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate')"),
        });
    }
    tells_of_all(target, client, publication, oid, tables.iter().zip(&lineages)).await?;
    let mut changes = Vec::new();
    // Those that it names, and those that it tells of under their own names.
    let rows = client
        .query(
            "SELECT prrelid FROM pg_publication_rel WHERE prpubid = $1
             UNION SELECT c.oid FROM pg_publication_tables p JOIN pg_namespace n ON n.nspname = p.schemaname
                   JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename WHERE p.pubname = $2",
            &[&oid, &publication.name],
        )
        .await
        .map_err(sql_error)?;
    let published: HashSet<u32> = rows.iter().map(|row| row.get(0)).collect();
    if via_root {
        let is_told_of = |oid: &u32| all_tables || published.contains(oid) || is_ours_too(oid);
        let hidden = tables.iter().zip(&lineages).find(|(_, lineage)| lineage.ancestors.iter().any(is_told_of));
        if let Some((table, _)) = hidden {
            if !publication.is_ours {
                return Err(SourceError::NotReady {
                    what: format!(
                        "the publication {} tells of rows of {} under the name of the table that it is a partition of",
                        publication.name,
                        table.quoted()
                    ),
                    remedy: format!(
                        "run {}, or name another with publication = '…'",
                        Change::GoByPartitions.statement(publication)
                    ),
                });
            }
            changes.push(Change::GoByPartitions);
            via_root = false;
        }
    }
    let is_covered = |table: &DiscoveredTable, lineage: &Lineage| {
        let by_leaves =
            !via_root && !lineage.leaves.is_empty() && lineage.leaves.iter().all(|leaf| published.contains(leaf));
        all_tables
            || published.contains(&table.oid)
            || lineage.ancestors.iter().any(|ancestor| published.contains(ancestor))
            || by_leaves
    };
    let missing = tables.iter().zip(&lineages).filter(|(table, lineage)| !is_covered(table, lineage));
    let missing = distinct(missing.map(|(table, _)| table));
    if !missing.is_empty() {
        changes.push(Change::Add(missing));
    }
    Ok(Plan { naming: if via_root { Naming::Root } else { Naming::Partition(lineages) }, changes })
}

/// Refuses a publication that leaves out rows or columns of a table, as those that others made may (from Postgres 15
/// on): what it does not tell of would stay as it was copied, and nobody would know.
async fn tells_of_all(
    target: &Target,
    client: &Client,
    publication: &Publication,
    oid: u32,
    tables: impl Iterator<Item = (&DiscoveredTable, &Lineage)>,
) -> Result<(), SourceError> {
    // By way of JSON, since before 15 there are no such columns to ask for.
    let rows = client
        .query(
            "SELECT r.prrelid, to_jsonb(r) ->> 'prqual' IS NOT NULL, r.prrelid::regclass::text,
                    CASE WHEN jsonb_typeof(to_jsonb(r) -> 'prattrs') = 'array' THEN ARRAY(
                        SELECT a.attname::text FROM pg_attribute a
                        WHERE a.attrelid = r.prrelid AND to_jsonb(r) -> 'prattrs' @> to_jsonb(a.attnum)) END
             FROM pg_publication_rel r WHERE r.prpubid = $1",
            &[&oid],
        )
        .await
        .map_err(|error| target.sql_error(error))?;
    for (table, lineage) in tables {
        for row in &rows {
            let (relation, has_filter, shown): (u32, bool, String) = (row.get(0), row.get(1), row.get(2));
            let columns: Option<Vec<String>> = row.get(3);
            if relation != table.oid && !lineage.ancestors.contains(&relation) && !lineage.leaves.contains(&relation) {
                continue;
            }
            let mut fields = table.schema.fields().iter().map(|field| field.name());
            let missing = fields.find(|name| columns.as_ref().is_some_and(|columns| !columns.contains(name)));
            let what = match (has_filter, missing) {
                (true, _) => format!("the publication {} tells of some rows of {shown} alone", publication.name),
                (false, Some(column)) => {
                    format!("the publication {} leaves out the column {column} of {shown}", publication.name)
                }
                (false, None) => continue,
            };
            let name = quote(&publication.name);
            let remedy = format!(
                "run ALTER PUBLICATION {name} DROP TABLE {shown}; ALTER PUBLICATION {name} ADD TABLE {shown}, or name \
                 another with publication = '…'"
            );
            return Err(SourceError::NotReady { what, remedy });
        }
    }
    Ok(())
}

/// A table may stand in a project several times.
fn distinct<'a>(tables: impl IntoIterator<Item = &'a DiscoveredTable>) -> Vec<&'a DiscoveredTable> {
    let mut seen = HashSet::new();
    tables.into_iter().filter(|table| seen.insert(table.oid)).collect()
}

async fn lineages(target: &Target, client: &Client, tables: &[DiscoveredTable]) -> Result<Vec<Lineage>, SourceError> {
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let rows = client
        .query(
            "SELECT ARRAY(SELECT relid::oid FROM pg_partition_ancestors(t.oid::regclass) WHERE relid <> t.oid),
                    ARRAY(SELECT relid::oid FROM pg_partition_tree(t.oid::regclass) WHERE isleaf AND relid <> t.oid)
             FROM unnest($1::oid[]) WITH ORDINALITY t (oid, place) ORDER BY place",
            &[&oids],
        )
        .await
        .map_err(|error| target.sql_error(error))?;
    Ok(rows.iter().map(|row| Lineage { ancestors: row.get(0), leaves: row.get(1) }).collect())
}

/// The tables that a relation is a partition of: a partition may be made while we stream.
///
/// # Errors
/// When the server can't be asked.
pub async fn ancestors(target: &Target, relation: u32) -> Result<Vec<u32>, SourceError> {
    let client = target.sql().await?;
    let rows = client
        .query("SELECT relid::oid FROM pg_partition_ancestors($1::oid::regclass) WHERE relid <> $1::oid", &[&relation])
        .await
        .map_err(|error| target.sql_error(error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Schema;
    use pipeline::table::Identity;
    use std::sync::Arc;

    fn table(name: &str, oid: u32) -> DiscoveredTable {
        DiscoveredTable {
            name: name.to_owned(),
            pg_schema: "shop".to_owned(),
            pg_table: name.to_owned(),
            is_partitioned: false,
            oid,
            type_ids: Vec::new(),
            schema: Arc::new(Schema::empty()),
            identity: Identity::WholeRow,
            estimated_rows: None,
        }
    }

    #[test]
    fn statements_are_what_an_owner_can_run() {
        let publication = Publication { name: "our \"own\"".to_owned(), is_ours: true };
        let (a, b) = (table("a", 1), table("B", 2));
        let said = |change: Change<'_>| change.statement(&publication);
        assert_eq!(
            said(Change::Create { tables: vec![&a, &b], via_root: true }),
            r#"CREATE PUBLICATION "our ""own""" FOR TABLE "shop"."a", "shop"."B" WITH (publish_via_partition_root = true)"#
        );
        assert_eq!(
            said(Change::GoByPartitions),
            r#"ALTER PUBLICATION "our ""own""" SET (publish_via_partition_root = false)"#
        );
        assert_eq!(said(Change::Add(vec![&b])), r#"ALTER PUBLICATION "our ""own""" ADD TABLE "shop"."B""#);
    }

    #[test]
    fn a_table_that_stands_in_a_project_twice_is_named_once() {
        let tables = [table("a", 1), table("b", 2), table("a", 1)];
        assert_eq!(distinct(&tables).iter().map(|table| table.oid).collect::<Vec<_>>(), [1, 2]);
    }
}
