//! A folder to tables, views and projections.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use datafusion::sql::sqlparser::ast::{
    ColumnOption, CreateTable, CreateTableOptions, CreateView, DataType as SqlDataType, Expr as SqlExpr, Insert,
    ObjectName, Query, SetExpr, SqlOption, Statement, TableConstraint, TableObject,
};

use filter::Roles;

use crate::access;
use crate::config::{BATCH_MAX, BATCH_TOO_LONG, Config};
use crate::diagnostic::{Diagnostic, Diagnostics, Place, SourceFile};
use crate::options::{Environment, Options, duration};
use crate::promise;
use crate::statement::{ParsedStatement, parse};

/// What `CREATE MATERIALIZED VIEW … WITH (…)` may say.
const PROJECTION_OPTIONS: [&str; 5] = ["batch", "description", "hide", "key", "public"];

/// A project as written: nothing of it has been planned.
#[derive(Debug, Default)]
pub struct Project {
    /// Names publications, slots and the page.
    pub name: String,
    /// `deltafront.toml`.
    pub config: Config,
    /// `CREATE TABLE`, by name.
    pub tables: BTreeMap<String, TableDeclaration>,
    /// `CREATE VIEW` and `CREATE MATERIALIZED VIEW`, by name.
    pub queries: BTreeMap<String, QueryDeclaration>,
    /// `CREATE POLICY`, in the order of files.
    pub policies: Vec<PolicyDeclaration>,
    /// `GRANT SELECT`, in the order of files.
    pub grants: Vec<GrantDeclaration>,
    /// While what is built in is added.
    may_qualify: bool,
}

/// A source table.
#[derive(Clone, Debug)]
pub struct TableDeclaration {
    /// Its name in the project's SQL.
    pub name: String,
    /// The kind of source that its rows come from, and where it is named. Which there are, and what
    /// they take, is for whoever reads from them to say.
    pub connector: (String, Place),
    /// What else `WITH (…)` says.
    pub options: Options,
    /// Columns as declared; empty when they are to be read from the source.
    pub columns: Vec<DeclaredColumn>,
    /// The primary key as declared.
    pub key: Vec<String>,
    /// The statement.
    pub place: Place,
}

/// A column as declared.
#[derive(Clone, Debug)]
pub struct DeclaredColumn {
    /// Its name.
    pub name: String,
    /// Its type, in SQL's words.
    pub data_type: SqlDataType,
    /// Where it is declared.
    pub place: Place,
}

/// A view or a projection.
#[derive(Clone, Debug)]
pub struct QueryDeclaration {
    /// Its name.
    pub name: String,
    /// Its SELECT.
    pub query: Query,
    /// New names for its columns, where given.
    pub columns: Vec<String>,
    /// Set for `CREATE MATERIALIZED VIEW`.
    pub projection: Option<ProjectionOptions>,
    /// Set for `INSERT INTO`: the table that its rows are written to.
    pub sink: Option<(String, Place)>,
    /// The statement.
    pub place: Place,
}

/// What `WITH (…)` says of a projection.
#[derive(Clone, Debug, Default)]
pub struct ProjectionOptions {
    /// At least this long between two diffs to a client.
    pub batch: Duration,
    /// For people.
    pub description: Option<String>,
    /// The declared key.
    pub key: Option<(Vec<String>, Place)>,
    /// Where it is said that everyone may see every row.
    pub public: Option<Place>,
    /// Columns that nobody sees.
    pub hide: Option<(Vec<String>, Place)>,
}

/// `CREATE POLICY`
#[derive(Clone, Debug)]
pub struct PolicyDeclaration {
    /// Its name.
    pub name: String,
    /// The projection that it is for, and where that is named.
    pub on: (String, Place),
    /// `AS RESTRICTIVE`
    pub is_restrictive: bool,
    /// `TO …`
    pub roles: Roles,
    /// `USING (…)`
    pub using: SqlExpr,
    /// The statement.
    pub place: Place,
}

/// `GRANT SELECT`
#[derive(Clone, Debug)]
pub struct GrantDeclaration {
    /// The columns, each with its place; `None` for all.
    pub columns: Option<Vec<(String, Place)>>,
    /// The projections that it is for, and where they are named.
    pub on: Vec<(String, Place)>,
    /// `TO …`
    pub roles: Roles,
}

/// Projects in a folder that is none, two levels deep: for whoever forgot to name one.
fn projects_in(folder: &Path) -> Vec<String> {
    let folders = |of: &Path| -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> =
            std::fs::read_dir(of).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        all.retain(|path| path.is_dir());
        all.sort();
        all
    };
    let below = folders(folder).into_iter().flat_map(|path| std::iter::once(path.clone()).chain(folders(&path)));
    let projects = below.filter(|path| path.join("deltafront.toml").exists());
    projects.map(|path| path.display().to_string()).take(5).collect()
}

impl Project {
    /// Reads a project's folder. Every mistake that can be found without a server goes to `wrong`.
    pub fn load(folder: &Path, environment: Environment<'_>, wrong: &mut Diagnostics) -> Project {
        let mut project = Project::default();
        let folder_name =
            folder.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        match std::fs::read_to_string(folder.join("deltafront.toml")) {
            Ok(text) => {
                let file = Arc::new(SourceFile { path: PathBuf::from("deltafront.toml"), text });
                project.config = Config::parse(&file, folder, environment, wrong);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => wrong.push(Diagnostic::of_project(format!("can't read deltafront.toml: {error}"))),
        }
        project.name = project.config.project.name.clone().or(folder_name).unwrap_or_else(|| "deltafront".to_owned());
        let mut files = Vec::new();
        sql_files(folder, Path::new(""), &project.config.project.exclude, &mut files, wrong);
        if files.is_empty() && wrong.is_empty() {
            let help = match projects_in(folder).as_slice() {
                [] => "a project is a folder with deltafront.toml and .sql files; see examples/storefront".to_owned(),
                projects => format!("give the folder of a project: {}", projects.join(", ")),
            };
            wrong.push(Diagnostic::of_project(format!("{} has no .sql file", folder.display())).help(help));
        }
        for path in files {
            match std::fs::read_to_string(folder.join(&path)) {
                Ok(text) => {
                    let file = Arc::new(SourceFile { path, text });
                    for statement in parse(&file, wrong) {
                        project.add(statement, environment, wrong);
                    }
                }
                Err(error) => wrong.push(Diagnostic::of_project(format!("can't read {}: {error}", path.display()))),
            }
        }
        project
    }

    /// Adds what every project of a kind has without writing it. Its names may have qualifiers, which
    /// a project's own have not.
    pub fn add_built_in(&mut self, text: &str, wrong: &mut Diagnostics) {
        let file = Arc::new(SourceFile { path: PathBuf::from("built-in.sql"), text: text.to_owned() });
        for statement in parse(&file, wrong) {
            self.may_qualify = true;
            self.add(statement, &|_| None, wrong);
            self.may_qualify = false;
        }
    }

    fn add(&mut self, parsed: ParsedStatement, environment: Environment<'_>, wrong: &mut Diagnostics) {
        let ParsedStatement { statement, place } = parsed;
        match statement {
            Statement::CreateTable(table) => self.add_table(table, place, environment, wrong),
            Statement::CreateView(view) => self.add_query(view, place, environment, wrong),
            Statement::Query(_) => wrong.push(
                Diagnostic::at(place, "a SELECT by itself keeps nothing")
                    .help("write CREATE MATERIALIZED VIEW name AS SELECT …"),
            ),
            Statement::CreatePolicy(policy) => match access::policy(policy, &place) {
                Ok(policy) => self.policies.push(policy),
                Err(mistake) => wrong.push(mistake),
            },
            Statement::Grant(grant) => match access::grant(grant, &place) {
                Ok(grant) => self.grants.push(grant),
                Err(mistake) => wrong.push(mistake),
            },
            Statement::Insert(insert) => self.add_sink(insert, place, wrong),
            _ => wrong.push(
                Diagnostic::at(
                    place,
                    "a project is made of CREATE TABLE, VIEW, MATERIALIZED VIEW and POLICY, and GRANT SELECT",
                )
                .help("files that belong to something else are left out by `exclude` in deltafront.toml"),
            ),
        }
    }

    fn name_is_taken(&self, name: &str, place: &Place, wrong: &mut Diagnostics) -> bool {
        if name.contains('.') && !self.may_qualify {
            wrong.push(
                Diagnostic::at(
                    place.clone(),
                    format!("`{name}` has a qualifier, and a project has one space of names"),
                )
                .help("write the name alone"),
            );
            return true;
        }
        let first = self
            .tables
            .get(name)
            .map(|table| &table.place)
            .or_else(|| self.queries.get(name).map(|query| &query.place));
        if let Some(first) = first {
            let help = format!(
                "the first one is at {}:{}:{}; rename one of them",
                first.file.path.display(),
                first.line,
                first.column
            );
            wrong.push(Diagnostic::at(place.clone(), format!("`{name}` is defined twice")).help(help));
        }
        first.is_some()
    }

    fn add_table(&mut self, table: CreateTable, place: Place, environment: Environment<'_>, wrong: &mut Diagnostics) {
        let name = name_of(&table.name);
        if self.name_is_taken(&name, &name_place(&table.name, &place), wrong) {
            return;
        }
        let mut options = Options::read(with_options(&table.table_options), &place.file, environment, wrong);
        let columns: Vec<DeclaredColumn> = table
            .columns
            .iter()
            .map(|column| DeclaredColumn {
                name: normalise(&column.name),
                data_type: column.data_type.clone(),
                place: Place::new(&place.file, column.name.span),
            })
            .collect();
        let mut key: Vec<String> = table
            .columns
            .iter()
            .filter(|column| column.options.iter().any(|option| matches!(option.option, ColumnOption::PrimaryKey(_))))
            .map(|column| normalise(&column.name))
            .collect();
        for constraint in &table.constraints {
            match constraint {
                TableConstraint::PrimaryKey(primary) if key.is_empty() => {
                    key = primary.columns.iter().map(|column| key_name(&column.column.expr)).collect();
                }
                _ => wrong.push(
                    Diagnostic::at(place.clone(), format!("table `{name}` has a constraint that means nothing here"))
                        .help("keep one PRIMARY KEY; the database checks the rest"),
                ),
            }
        }
        for (i, column) in columns.iter().enumerate() {
            if columns[..i].iter().any(|earlier| earlier.name == column.name) {
                wrong.push(Diagnostic::at(column.place.clone(), format!("column `{}` is declared twice", column.name)));
            }
        }
        let Some(connector) = options.take("connector") else {
            wrong.push(
                Diagnostic::at(place, format!("table `{name}` does not say where its rows come from"))
                    .help("add WITH (connector = 'postgres', url = '${DATABASE_URL}', table = 'public.…')"),
            );
            return;
        };
        if connector.0 != promise::KEPT_BY {
            for (column, declared) in table.columns.iter().zip(&columns) {
                for (what, remedy) in promise::of_column(column, key.contains(&declared.name)) {
                    let message = format!(
                        "column `{}` is declared {what}, and rows of connector = '{}' come as they are",
                        declared.name, connector.0
                    );
                    wrong.push(Diagnostic::at(declared.place.clone(), message).help(remedy));
                }
            }
        }
        self.tables.insert(name.clone(), TableDeclaration { name, connector, options, columns, key, place });
    }

    fn add_query(&mut self, view: CreateView, place: Place, environment: Environment<'_>, wrong: &mut Diagnostics) {
        let name = name_of(&view.name);
        if self.name_is_taken(&name, &name_place(&view.name, &place), wrong) {
            return;
        }
        let mut options = Options::read(with_options(&view.options), &place.file, environment, wrong);
        let mut projection = ProjectionOptions::default();
        if view.materialized {
            if let Some((text, at)) = options.take("batch") {
                match duration(&text) {
                    Ok(batch) if batch > BATCH_MAX => {
                        wrong
                            .push(Diagnostic::at(at, format!("`{text}` is too long for a batch")).help(BATCH_TOO_LONG));
                    }
                    Ok(batch) => projection.batch = batch,
                    Err(help) => wrong.push(Diagnostic::at(at, format!("`{text}` is not a duration")).help(help)),
                }
            }
            projection.description = options.take("description").map(|(text, _)| text);
            projection.key = options.take("key").map(|(text, at)| (names(&text), at));
            projection.hide = options.take("hide").map(|(text, at)| (names(&text), at));
            if let Some((text, at)) = options.take("public") {
                match text.as_str() {
                    "true" => projection.public = Some(at),
                    "false" => {}
                    _ => wrong.push(
                        Diagnostic::at(at, format!("`{text}` is neither true nor false"))
                            .help("write public = 'true' where everyone may see every row"),
                    ),
                }
            }
            options.refuse_others(&PROJECTION_OPTIONS, "a projection", wrong);
        } else {
            options.refuse_others(&[], "a view, which is inlined where it is used,", wrong);
        }
        let columns = view.columns.iter().map(|column| normalise(&column.name)).collect();
        let projection = view.materialized.then_some(projection);
        let query = QueryDeclaration { name: name.clone(), query: *view.query, columns, projection, sink: None, place };
        self.queries.insert(name, query);
    }

    fn add_sink(&mut self, insert: Insert, place: Place, wrong: &mut Diagnostics) {
        let (TableObject::TableName(table), Some(query)) = (&insert.table, insert.source) else {
            let mistake = Diagnostic::at(place, "this INSERT has no SELECT whose rows could be written");
            wrong.push(mistake.help("write INSERT INTO table SELECT …"));
            return;
        };
        if matches!(*query.body, SetExpr::Values(_)) || insert.on.is_some() || insert.returning.is_some() {
            let mistake = Diagnostic::at(place, "an INSERT keeps a table as a SELECT has it, and knows nothing else");
            wrong.push(mistake.help("write INSERT INTO table SELECT …, without VALUES, ON CONFLICT and RETURNING"));
            return;
        }
        let at = name_place(table, &place);
        let table = name_of(table);
        let name = format!("INSERT INTO {table}");
        if let Some(first) = self.queries.get(&name) {
            let (file, line) = (first.place.file.path.display(), first.place.line);
            let help = format!("the first INSERT is at {file}:{line}; make one of both with UNION ALL");
            wrong.push(Diagnostic::at(at, format!("`{table}` is written to twice")).help(help));
            return;
        }
        let columns = insert.columns.iter().map(name_of).collect();
        let sink = Some((table, at));
        let query = QueryDeclaration { name: name.clone(), query: *query, columns, projection: None, sink, place };
        self.queries.insert(name, query);
    }

    /// Whether rows are written to this table: then none are read from it.
    #[must_use]
    pub fn is_sink(&self, table: &str) -> bool {
        self.queries.values().any(|query| query.sink.as_ref().is_some_and(|(sink, _)| sink == table))
    }
}

fn names(list: &str) -> Vec<String> {
    list.split(',').map(|name| name.trim().to_owned()).collect()
}

fn with_options(options: &CreateTableOptions) -> &[SqlOption] {
    match options {
        CreateTableOptions::None => &[],
        CreateTableOptions::With(options)
        | CreateTableOptions::Options(options)
        | CreateTableOptions::Plain(options)
        | CreateTableOptions::TableProperties(options) => options,
    }
}

/// Unquoted names are lower case, as in Postgres.
pub(crate) fn normalise(ident: &datafusion::sql::sqlparser::ast::Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_ascii_lowercase() }
}

/// A name with its qualifiers, as the project knows it.
pub(crate) fn name_of(name: &ObjectName) -> String {
    name.0.iter().filter_map(|part| part.as_ident()).map(normalise).collect::<Vec<_>>().join(".")
}

/// A column of PRIMARY KEY (…).
fn key_name(expr: &SqlExpr) -> String {
    match expr {
        SqlExpr::Identifier(ident) => normalise(ident),
        other => other.to_string(),
    }
}

pub(crate) fn name_place(name: &ObjectName, statement: &Place) -> Place {
    match name.0.first().and_then(|part| part.as_ident()) {
        Some(ident) if ident.span.start.line > 0 => Place::new(&statement.file, ident.span),
        _ => statement.clone(),
    }
}

/// The `.sql` files under a folder, in the order of their names.
fn sql_files(root: &Path, under: &Path, exclude: &[String], found: &mut Vec<PathBuf>, wrong: &mut Diagnostics) {
    let entries = match std::fs::read_dir(root.join(under)) {
        Ok(entries) => entries,
        Err(error) => {
            let shown = root.join(under);
            wrong.push(
                Diagnostic::of_project(format!("can't read the folder {}: {error}", shown.display()))
                    .help("give the folder of a project"),
            );
            return;
        }
    };
    let mut paths: Vec<(PathBuf, bool)> =
        entries.flatten().map(|entry| (under.join(entry.file_name()), entry.path().is_dir())).collect();
    paths.sort();
    for (path, is_folder) in paths {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if hidden || exclude.iter().any(|excluded| path.starts_with(excluded)) {
            continue;
        }
        if is_folder {
            // Another project, with tables and names of its own.
            if !root.join(&path).join("deltafront.toml").exists() {
                sql_files(root, &path, exclude, found, wrong);
            }
        } else if path.extension().is_some_and(|extension| extension == "sql") {
            found.push(path);
        }
    }
}
