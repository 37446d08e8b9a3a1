//! A folder and its sources to a plan.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use connectors::sink::{Sink, SinkRequest};
use connectors::source::{Opened, Problem, SourceTable, TableRequest};
use connectors::{Connector, Source, dead_letters};
use push::serve::Gate;
use sql::diagnostic::Place;
use sql::plan::{declared_shape, declared_type};
use sql::project::DeclaredColumn;
use sql::{Diagnostic, Diagnostics, Plan, Project, TableDeclaration, TableShape, plan};

use crate::{auth, topics};

/// What tables can be read from. A new connector is a line here.
pub const CONNECTORS: &[Connector] = &[
    connectors::postgres::CONNECTOR,
    connectors::generator::CONNECTOR,
    #[cfg(feature = "kafka")]
    connectors::kafka::CONNECTOR,
    #[cfg(feature = "fluvio")]
    connectors::fluvio::CONNECTOR,
];

/// Connectors that a program may be built without, by the cargo feature of the same name.
const OPTIONAL: [&str; 2] = ["kafka", "fluvio"];

/// A project that can run.
pub struct Prepared {
    /// The project as written.
    pub project: Project,
    /// Its dataflow.
    pub plan: Plan,
    /// Where it reads from.
    pub sources: Vec<PreparedSource>,
    /// Where it writes to, in the order of the plan's.
    pub sinks: Vec<Box<dyn Sink>>,
}

/// A place that a project reads from.
pub struct PreparedSource {
    /// Name in positions and metrics; no two have the same.
    pub name: Arc<str>,
    /// The source.
    pub source: Box<dyn Source>,
    /// Its tables as found, in its order; empty when nothing was asked of it.
    pub tables: Vec<SourceTable>,
}

/// Whether sources are asked for their tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Yes.
    Databases,
    /// No: what is declared must do.
    Nobody,
}

/// Reads a project, looks at its sources, and plans it.
///
/// # Errors
/// With every mistake that could be found.
pub async fn prepare(folder: &Path, ask: Ask) -> Result<Prepared, Diagnostics> {
    prepare_with(folder, ask, CONNECTORS).await
}

/// As [`prepare`], with other connectors.
///
/// # Errors
/// As [`prepare`].
pub async fn prepare_with(folder: &Path, ask: Ask, connectors: &[Connector]) -> Result<Prepared, Diagnostics> {
    let mut wrong = Diagnostics::default();
    let mut project = Project::load(folder, &|name| std::env::var(name).ok(), &mut wrong);
    let warnings = check_settings(folder, &project, &mut wrong);
    let reads_messages = |table: &TableDeclaration| {
        connectors.iter().any(|connector| connector.reads_messages && connector.name == table.connector.0)
    };
    let mut connectors = connectors.to_vec();
    if project.tables.values().any(reads_messages) {
        project.add_built_in(
            &format!(
                "CREATE TABLE {} WITH (connector = 'dead_letters');
                 CREATE MATERIALIZED VIEW {} WITH (description = 'The newest messages that could not be read') AS
                 SELECT * FROM {};",
                dead_letters::TABLE,
                dead_letters::PROJECTION,
                dead_letters::TABLE
            ),
            &mut wrong,
        );
        connectors.push(dead_letters::CONNECTOR);
    }
    let connectors = &connectors[..];
    let mut sources = open_sources(&project, connectors, &mut wrong);
    let shapes = match ask {
        Ask::Nobody => declared_shapes(&project, &sources, &mut wrong),
        Ask::Databases => discovered_shapes(&project, &mut sources, &mut wrong).await,
    };
    let mut plan = plan(&project, &shapes, &mut wrong);
    plan.warnings.0.splice(0..0, warnings);
    topics::check(&project, &plan, &mut wrong);
    let sinks = open_sinks(&project, &plan, connectors, ask, &mut wrong).await;
    if wrong.is_empty() { Ok(Prepared { project, plan, sources, sinks }) } else { Err(wrong.sorted()) }
}

/// What only its user can tell of a setting: hosts, origins, keys, files. Answers what is probably not meant.
fn check_settings(folder: &Path, project: &Project, wrong: &mut Diagnostics) -> Vec<Diagnostic> {
    let server = &project.config.server;
    if let Err(mistake) = Gate::new(true, &server.allowed_origins, &server.allowed_hosts) {
        wrong.push(Diagnostic::of_project(mistake.to_string()).help("see [server] in docs/projects.md"));
    }
    if let Some(Err(fault)) = project.config.auth.as_ref().map(auth::open) {
        let fault = format!("[auth] in deltafront.toml: {:#}", anyhow::Error::new(fault));
        wrong.push(Diagnostic::of_project(fault).help("see [auth] in docs/projects.md"));
    }
    let mut warnings = Vec::new();
    let mut warn = |what: String, help: &str| {
        warnings.push(Diagnostic { is_warning: true, ..Diagnostic::of_project(what) }.help(help));
    };
    for excluded in &project.config.project.exclude {
        if !folder.join(excluded).exists() {
            let what = format!("exclude in deltafront.toml names `{excluded}`, and there is no such file or folder");
            warn(what, "its entries are relative to the project's folder");
        }
    }
    if let Some(url) = project.config.auth.as_ref().and_then(auth::exposed_keys) {
        let what = format!("keys are fetched from {url} without TLS: who can change what is answered can sign in");
        warn(what, "write jwks_url = \"https://…\"; jwks_ca_file names an authority of your own");
    }
    warnings
}

fn open_sources(project: &Project, connectors: &[Connector], wrong: &mut Diagnostics) -> Vec<PreparedSource> {
    let mut sources: Vec<PreparedSource> = Vec::new();
    let mut known = vec![Vec::new(); connectors.len()];
    for table in project.tables.values().filter(|table| !project.is_sink(&table.name)) {
        let (name, place) = &table.connector;
        match connectors.iter().position(|connector| connector.name == name) {
            Some(i) if has_its_options(table, &connectors[i], wrong) => known[i].push(request(table, wrong)),
            Some(_) => {}
            None => {
                wrong.push(unknown_connector(name, connectors, place.clone()));
            }
        }
    }
    for (connector, tables) in connectors.iter().zip(known) {
        let Opened { sources: opened, problems } = (connector.open)(&sql_name(&project.name), tables);
        for Problem { table, what, remedy } in problems {
            wrong.push(diagnostic(project, table.as_deref(), what, remedy));
        }
        for source in opened {
            let wanted = source.name();
            let is_free = |name: &str| sources.iter().all(|source| *source.name != *name);
            let name = if is_free(wanted) {
                wanted.to_owned()
            } else {
                (2..).map(|number| format!("{wanted}-{number}")).find(|name| is_free(name)).unwrap_or_default()
            };
            sources.push(PreparedSource { name: name.into(), source, tables: Vec::new() });
        }
    }
    sources
}

/// The columns of what is written, as its table calls them: they go by their place.
fn as_declared(schema: &SchemaRef, table: &TableDeclaration) -> SchemaRef {
    if table.columns.len() != schema.fields().len() {
        return Arc::clone(schema);
    }
    let named = |(field, column): (&FieldRef, &DeclaredColumn)| field.as_ref().clone().with_name(&column.name);
    Arc::new(Schema::new(schema.fields().iter().zip(&table.columns).map(named).collect::<Vec<_>>()))
}

/// What is written, by the connectors of the tables that it is written to.
async fn open_sinks(
    project: &Project,
    plan: &Plan,
    connectors: &[Connector],
    ask: Ask,
    wrong: &mut Diagnostics,
) -> Vec<Box<dyn Sink>> {
    let mut sinks = Vec::new();
    for planned in &plan.sinks {
        let Some(table) = project.tables.get(&planned.table) else { continue };
        let (name, place) = &table.connector;
        let Some(connector) = connectors.iter().find(|connector| connector.name == name) else {
            wrong.push(unknown_connector(name, connectors, place.clone()));
            continue;
        };
        let Some(open) = connector.open_sink else {
            let what = format!("nothing can be written to {}", connector.of_tables);
            let writable = connectors.iter().filter(|connector| connector.open_sink.is_some());
            let names: Vec<&str> = writable.map(|connector| connector.name).collect();
            let help = if names.is_empty() {
                "this program was built without kafka and fluvio, whose topics can be written".to_owned()
            } else {
                format!("write to a table with connector = '{}'", names.join("' or '"))
            };
            wrong.push(Diagnostic::at(place.clone(), what).help(help));
            continue;
        };
        if !has_its_options(table, connector, wrong) {
            continue;
        }
        let opened = open(SinkRequest {
            table: request(table, wrong),
            project: sql_name(&project.name),
            schema: as_declared(&planned.schema, table),
            key: planned.key.columns().map(<[usize]>::to_vec),
        });
        let checked = match opened {
            Ok(mut sink) if ask == Ask::Databases => sink.check().await.map(|()| sink),
            opened => opened,
        };
        match checked {
            Ok(sink) => sinks.push(sink),
            Err(Problem { table, what, remedy }) => wrong.push(diagnostic(project, table.as_deref(), what, remedy)),
        }
    }
    sinks
}

fn unknown_connector(name: &str, connectors: &[Connector], place: Place) -> Diagnostic {
    if OPTIONAL.contains(&name) {
        return Diagnostic::at(place, format!("this program was built without {name}")).help(format!(
            "build it with `--features {name}`; released programs have it (see `deltafront --version`)"
        ));
    }
    let names: Vec<String> = connectors.iter().map(|connector| format!("connector = '{}'", connector.name)).collect();
    Diagnostic::at(place, format!("there is no connector `{name}`"))
        .help(format!("this version has {}", names.join(", ")))
}

/// Reports options that the connector does not take, and those that it needs. Answers whether the
/// table can be looked at.
fn has_its_options(table: &TableDeclaration, connector: &Connector, wrong: &mut Diagnostics) -> bool {
    let given = table.options.values();
    let mut names: Vec<&str> =
        std::iter::once("connector").chain(connector.options.iter().map(|option| option.name)).collect();
    if connector.passes_dotted {
        names.extend(given.keys().map(String::as_str).filter(|name| name.contains('.')));
    }
    table.options.refuse_others(&names, connector.of_tables, wrong);
    let mut has_all = true;
    for option in connector.options {
        let Some(remedy) = option.required else { continue };
        has_all &= given.contains_key(option.name);
        if !table.options.was_given(option.name) {
            let mistake =
                Diagnostic::at(table.place.clone(), format!("table `{}` has no `{}`", table.name, option.name));
            wrong.push(mistake.help(remedy));
        }
    }
    has_all
}

fn request(table: &TableDeclaration, wrong: &mut Diagnostics) -> TableRequest {
    let mut columns = Vec::new();
    for column in &table.columns {
        match declared_type(column) {
            Ok(data_type) => columns.push((column.name.clone(), data_type)),
            Err(mistake) => wrong.push(mistake),
        }
    }
    TableRequest {
        name: table.name.clone(),
        options: table.options.values(),
        columns: (!columns.is_empty()).then_some(columns),
        key: table.key.clone(),
    }
}

fn declared_shapes(
    project: &Project,
    sources: &[PreparedSource],
    wrong: &mut Diagnostics,
) -> BTreeMap<String, TableShape> {
    let known = sources.iter().flat_map(|source| source.source.declared()).flatten();
    let mut shapes: BTreeMap<String, TableShape> =
        known.map(|table| (table.name, TableShape { schema: table.schema, identity: table.identity })).collect();
    for name in project.tables.keys() {
        if shapes.contains_key(name) || project.is_sink(name) {
            continue;
        }
        match declared_shape(project, name) {
            Ok(shape) => drop(shapes.insert(name.clone(), shape)),
            Err(mistakes) => mistakes.into_iter().for_each(|mistake| wrong.push(mistake)),
        }
    }
    shapes
}

async fn discovered_shapes(
    project: &Project,
    sources: &mut [PreparedSource],
    wrong: &mut Diagnostics,
) -> BTreeMap<String, TableShape> {
    let mut shapes = BTreeMap::new();
    for PreparedSource { source, tables, .. } in sources {
        match source.discover().await {
            Ok(found) => {
                for table in &found {
                    shapes.insert(
                        table.name.clone(),
                        TableShape { schema: Arc::clone(&table.schema), identity: table.identity.clone() },
                    );
                }
                *tables = found;
            }
            Err(problems) => {
                let first = source.table_names().first().map(|&name| name.to_owned());
                for Problem { table, what, remedy } in problems {
                    // What is wrong with a source stands at the first table that names it.
                    wrong.push(diagnostic(
                        project,
                        table.as_ref().or(first.as_ref()).map(String::as_str),
                        what,
                        remedy,
                    ));
                }
            }
        }
    }
    shapes
}

fn diagnostic(project: &Project, table: Option<&str>, what: String, remedy: String) -> Diagnostic {
    let diagnostic = match table.and_then(|name| project.tables.get(name)) {
        Some(table) => Diagnostic::at(table.place.clone(), what),
        None => Diagnostic::of_project(what),
    };
    diagnostic.help(remedy)
}

/// A name that needs no quotes in SQL.
fn sql_name(name: &str) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    plain.chars().take(40).collect()
}
