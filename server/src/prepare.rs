//! A folder and its databases to a plan.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use connectors::postgres::{DiscoveredTable, Response, SourceError, TableRequest, Target, chain, discover, response_to};
use sql::plan::{declared_shape, declared_type};
use sql::project::{Connector, PostgresTable};
use sql::{Diagnostic, Diagnostics, Plan, Project, TableShape, plan};

/// A project that can run.
pub struct Prepared {
    /// The project as written.
    pub project: Project,
    /// Its dataflow.
    pub plan: Plan,
    /// The databases that it reads.
    pub sources: Vec<PreparedSource>,
}

/// A database that a project reads, and the tables it reads there.
pub struct PreparedSource {
    /// Name in positions and metrics.
    pub name: Arc<str>,
    /// Where it is.
    pub target: Target,
    /// The publication.
    pub publication: String,
    /// Beginning of the slots' names.
    pub slot: String,
    /// The tables, by their names in the project.
    pub requests: Vec<TableRequest>,
    /// The same as found; empty when nothing was asked of a server.
    pub tables: Vec<DiscoveredTable>,
}

/// Whether databases are asked for their tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Yes.
    Databases,
    /// No: what is declared must do.
    Nobody,
}

/// Reads a project, looks at its databases, and plans it.
///
/// # Errors
/// With every mistake that could be found.
pub async fn prepare(folder: &Path, ask: Ask) -> Result<Prepared, Diagnostics> {
    let mut wrong = Diagnostics::default();
    let project = Project::load(folder, &|name| std::env::var(name).ok(), &mut wrong);
    let mut sources = sources_of(&project, &mut wrong);
    let shapes = match ask {
        Ask::Nobody => declared_shapes(&project, &mut wrong),
        Ask::Databases => discovered_shapes(&project, &mut sources, &mut wrong).await,
    };
    let plan = plan(&project, &shapes, &mut wrong);
    if wrong.is_empty() { Ok(Prepared { project, plan, sources }) } else { Err(wrong.sorted()) }
}

/// Tables of one database and publication are one source: one slot, one order of transactions.
fn sources_of(project: &Project, wrong: &mut Diagnostics) -> Vec<PreparedSource> {
    let default_name = format!("deltafront_{}", sql_name(&project.name));
    let mut sources: Vec<PreparedSource> = Vec::new();
    for table in project.tables.values() {
        let Connector::Postgres(postgres) = &table.connector;
        let target = match Target::parse(&postgres.url) {
            Ok(target) => target,
            Err(error) => {
                wrong.push(source_diagnostic(Diagnostic::at(table.place.clone(), error.to_string()), &error));
                continue;
            }
        };
        let request = request(table, postgres, wrong);
        let publication = postgres.publication.clone().unwrap_or_else(|| default_name.clone());
        let slot = postgres.slot.clone().unwrap_or_else(|| default_name.clone());
        let same =
            |source: &&mut PreparedSource| source.target.is_same(&target) && source.publication == publication && source.slot == slot;
        if let Some(source) = sources.iter_mut().find(same) {
            source.requests.push(request);
            continue;
        }
        let wanted = postgres.source.clone().unwrap_or_else(|| target.database.clone());
        let mut name = wanted.clone();
        let mut number = 2;
        while sources.iter().any(|source| *source.name == *name) {
            name = format!("{wanted}-{number}");
            number += 1;
        }
        sources.push(PreparedSource { name: name.into(), target, publication, slot, requests: vec![request], tables: Vec::new() });
    }
    sources
}

fn request(table: &sql::TableDeclaration, postgres: &PostgresTable, wrong: &mut Diagnostics) -> TableRequest {
    let mut columns = Vec::new();
    for column in &table.columns {
        match declared_type(column) {
            Ok(data_type) => columns.push((column.name.clone(), data_type)),
            Err(mistake) => wrong.push(mistake),
        }
    }
    TableRequest {
        name: table.name.clone(),
        schema: postgres.schema.clone(),
        table: postgres.table.clone(),
        columns: (!columns.is_empty()).then_some(columns),
    }
}

fn declared_shapes(project: &Project, wrong: &mut Diagnostics) -> BTreeMap<String, TableShape> {
    let mut shapes = BTreeMap::new();
    for name in project.tables.keys() {
        match declared_shape(project, name) {
            Ok(shape) => drop(shapes.insert(name.clone(), shape)),
            Err(mistakes) => mistakes.into_iter().for_each(|mistake| wrong.push(mistake)),
        }
    }
    shapes
}

async fn discovered_shapes(project: &Project, sources: &mut [PreparedSource], wrong: &mut Diagnostics) -> BTreeMap<String, TableShape> {
    let mut shapes = BTreeMap::new();
    for source in sources {
        match discover(&source.target, &source.requests).await {
            Ok(tables) => {
                for table in &tables {
                    shapes.insert(table.name.clone(), TableShape { schema: Arc::clone(&table.schema), identity: table.identity.clone() });
                }
                source.tables = tables;
            }
            Err(problems) => {
                for problem in problems {
                    // What is wrong with a database stands at the first table that names it.
                    let at = problem.table.as_ref().unwrap_or(&source.requests[0].name);
                    let place = project.tables.get(at).map(|table| table.place.clone());
                    let text = chain(&problem.error);
                    let diagnostic =
                        place.map_or_else(|| Diagnostic::of_project(text.clone()), |place| Diagnostic::at(place, text.clone()));
                    wrong.push(source_diagnostic(diagnostic, &problem.error));
                }
            }
        }
    }
    shapes
}

fn source_diagnostic(diagnostic: Diagnostic, error: &SourceError) -> Diagnostic {
    match response_to(error) {
        Response::Stop(remedy) => diagnostic.help(remedy),
        Response::Retry => diagnostic.help("start the database, or check host and port in the url; --offline checks without it"),
    }
}

/// A name that needs no quotes in SQL.
fn sql_name(name: &str) -> String {
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    plain.chars().take(40).collect()
}
