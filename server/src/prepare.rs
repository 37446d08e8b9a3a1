//! A folder and its sources to a plan.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use connectors::source::{Opened, Problem, SourceTable, TableRequest};
use connectors::{Connector, Source};
use push::serve::Gate;
use sql::plan::{declared_shape, declared_type};
use sql::{Diagnostic, Diagnostics, Plan, Project, TableDeclaration, TableShape, plan};

use crate::auth;

/// What tables can be read from. A new connector is a line here.
pub const CONNECTORS: &[Connector] = &[connectors::postgres::CONNECTOR, connectors::generator::CONNECTOR];

/// A project that can run.
pub struct Prepared {
    /// The project as written.
    pub project: Project,
    /// Its dataflow.
    pub plan: Plan,
    /// Where it reads from.
    pub sources: Vec<PreparedSource>,
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
    let project = Project::load(folder, &|name| std::env::var(name).ok(), &mut wrong);
    let warnings = check_settings(folder, &project, &mut wrong);
    let mut sources = open_sources(&project, connectors, &mut wrong);
    let shapes = match ask {
        Ask::Nobody => declared_shapes(&project, &mut wrong),
        Ask::Databases => discovered_shapes(&project, &mut sources, &mut wrong).await,
    };
    let mut plan = plan(&project, &shapes, &mut wrong);
    plan.warnings.0.splice(0..0, warnings);
    if wrong.is_empty() { Ok(Prepared { project, plan, sources }) } else { Err(wrong.sorted()) }
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
    for table in project.tables.values() {
        let (name, place) = &table.connector;
        match connectors.iter().position(|connector| connector.name == name) {
            Some(i) if has_its_options(table, &connectors[i], wrong) => known[i].push(request(table, wrong)),
            Some(_) => {}
            None => {
                let names: Vec<String> =
                    connectors.iter().map(|connector| format!("connector = '{}'", connector.name)).collect();
                let mistake = Diagnostic::at(place.clone(), format!("there is no connector `{name}`"));
                wrong.push(mistake.help(format!("this version has {}", names.join(", "))));
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

/// Reports options that the connector does not take, and those that it needs. Answers whether the
/// table can be looked at.
fn has_its_options(table: &TableDeclaration, connector: &Connector, wrong: &mut Diagnostics) -> bool {
    let names: Vec<&str> =
        std::iter::once("connector").chain(connector.options.iter().map(|option| option.name)).collect();
    table.options.refuse_others(&names, connector.of_tables, wrong);
    let given = table.options.values();
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
