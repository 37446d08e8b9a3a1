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
    let sql_error = |error| target.sql_error(error);
    let lineages = lineages(target, client, tables).await?;
    let name = quote(&publication.name);
    let run = async |statement: String| {
        tracing::info!(statement, "preparing the publication");
        client.batch_execute(&statement).await.map_err(|error| {
            match error.code().map(tokio_postgres::error::SqlState::code) {
                Some("42501") => SourceError::NotReady {
                    what: format!("the role of the url may not prepare the publication {}", publication.name),
                    remedy: format!("as the tables' owner run {statement}"),
                },
                _ => target.sql_error(error),
            }
        })
    };
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
        let names = distinct(tables.iter().map(DiscoveredTable::quoted)).join(", ");
        run(format!("CREATE PUBLICATION {name} FOR TABLE {names} WITH (publish_via_partition_root = {via_root})"))
            .await?;
        return Ok(if via_root { Naming::Root } else { Naming::Partition(lineages) });
    };
    let (oid, all_tables, all_kinds, mut via_root): (u32, bool, bool, bool) =
        (found.get(0), found.get(1), found.get(2), found.get(3));
    if !all_kinds {
        return Err(SourceError::NotReady {
            what: format!("the publication {} leaves out some kinds of change", publication.name),
            remedy: format!("run ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate')"),
        });
    }
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
            let statement = format!("ALTER PUBLICATION {name} SET (publish_via_partition_root = false)");
            if !publication.is_ours {
                return Err(SourceError::NotReady {
                    what: format!(
                        "the publication {} tells of rows of {} under the name of the table that it is a partition of",
                        publication.name,
                        table.quoted()
                    ),
                    remedy: format!("run {statement}, or name another with publication = '…'"),
                });
            }
            run(statement).await?;
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
    let missing = distinct(missing.map(|(table, _)| table.quoted()));
    if !missing.is_empty() {
        run(format!("ALTER PUBLICATION {name} ADD TABLE {}", missing.join(", "))).await?;
    }
    Ok(if via_root { Naming::Root } else { Naming::Partition(lineages) })
}

/// A table may stand in a project several times.
fn distinct(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = HashSet::new();
    names.filter(|name| seen.insert(name.clone())).collect()
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
