//! Statements in the order of their needs, planned by DataFusion.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, SchemaError};
use datafusion::datasource::ViewTable;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::SetQuantifier;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Volatility};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{DataType as SqlDataType, ObjectName, Query, Spanned, Statement, Visit, Visitor};
use datafusion::sql::sqlparser::tokenizer::{Location, Span};
use filter::Access;
use pipeline::projection::ProjectionKey;
use pipeline::table::Identity;
use pipeline::{Dataflow, Program, TableId};

use crate::access;
use crate::diagnostic::{Diagnostic, Diagnostics, Place, most_like};
use crate::lower::{Lowering, SortedBy};
use crate::project::{DeclaredColumn, Project, QueryDeclaration, name_of, normalise};
use crate::session::{SourceTable, session};
use crate::statement::lower_first;

/// What a source table looks like.
#[derive(Clone, Debug)]
pub struct TableShape {
    /// Its columns.
    pub schema: SchemaRef,
    /// How its rows are told apart.
    pub identity: Identity,
}

/// A project ready to run.
pub struct Plan {
    /// The dataflow, without rows.
    pub program: Program,
    /// The source tables, by their name in SQL.
    pub tables: BTreeMap<String, TableId>,
    /// What is served, in the order of names.
    pub projections: Vec<PlannedProjection>,
    /// What is written elsewhere, in the order of names.
    pub sinks: Vec<PlannedSink>,
    /// What is probably not meant. A project runs in spite of it.
    pub warnings: Diagnostics,
}

/// `INSERT INTO`: a table that is kept as a query has it.
#[derive(Clone, Debug)]
pub struct PlannedSink {
    /// The table.
    pub table: String,
    /// What the program calls the rows: a projection that nobody is shown.
    pub projection: String,
    /// Its columns.
    pub schema: SchemaRef,
    /// Its key: the table's PRIMARY KEY, or what the query has.
    pub key: ProjectionKey,
}

/// What clients and operators are told about a projection.
#[derive(Clone, Debug)]
pub struct PlannedProjection {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// At least this long between two diffs to a client.
    pub batch: Duration,
    /// Its columns.
    pub schema: SchemaRef,
    /// Its key.
    pub key: ProjectionKey,
    /// The ORDER BY at its top: for showing, since rows are a set.
    pub order: Vec<SortedBy>,
    /// Who sees what of it.
    pub access: Access,
}

/// What a project is to do.
pub struct Description {
    /// For a program to become, also one that runs ([`Program::reconcile`]).
    pub dataflow: Dataflow,
    /// What is served, in the order of names.
    pub projections: Vec<PlannedProjection>,
    /// What is written elsewhere, in the order of names.
    pub sinks: Vec<PlannedSink>,
    /// What is probably not meant. A project runs in spite of it.
    pub warnings: Diagnostics,
}

/// Plans a project whose tables have these shapes. Every mistake goes to `wrong`; the plan has
/// what is right.
pub fn plan(project: &Project, shapes: &BTreeMap<String, TableShape>, wrong: &mut Diagnostics) -> Plan {
    let Description { dataflow, projections, sinks, warnings } = describe(project, shapes, wrong);
    let program = Program::new(dataflow).unwrap_or_else(|error| {
        wrong.push(Diagnostic::of_project(chain(&error)));
        Program::default()
    });
    let tables = project.tables.keys().filter_map(|name| Some((name.clone(), program.table_id(name)?))).collect();
    Plan { program, tables, projections, sinks, warnings }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

/// As [`plan`], without building the program.
pub fn describe(project: &Project, shapes: &BTreeMap<String, TableShape>, wrong: &mut Diagnostics) -> Description {
    let context = session();
    let mut lowering = Lowering::new(context.state());
    for (name, declaration) in &project.tables {
        let Some(shape) = shapes.get(name) else { continue };
        let schema = nullable(&shape.schema);
        let kept = pipeline::row::RowCodec::whole(&schema).map_err(DataFusionError::from);
        match kept.and_then(|_| context.register_table(quoted(name), Arc::new(SourceTable(Arc::clone(&schema))))) {
            Ok(_) => lowering.add_table(name, schema, shape.identity.clone()),
            Err(error) => wrong.push(Diagnostic::at(declaration.place.clone(), error.strip_backtrace())),
        }
    }
    let mut planned = Planned { project, shapes, context, done: BTreeMap::new() };
    let mut projections = Vec::new();
    let mut sinks = Vec::new();
    for (name, declaration) in &project.queries {
        let Some(logical) = planned.visit(name, &mut Vec::new(), wrong) else { continue };
        if let Some(sink) = &declaration.sink {
            sinks.extend(plan_sink(project, declaration, sink, &logical, &mut lowering, wrong));
            continue;
        }
        let Some(options) = &declaration.projection else { continue };
        let lowered = match lowering.lower_projection(name, &logical) {
            Ok(lowered) => lowered,
            Err(error) => {
                wrong.push(planning_error(&error, declaration, "no plan can be made of this"));
                continue;
            }
        };
        let key = match &options.key {
            None => lowered.key.map_or(ProjectionKey::WholeRow, ProjectionKey::Derived),
            Some((names, place)) => match declared_key(names, place, &lowered.input.schema) {
                Ok(columns) => ProjectionKey::Declared(columns),
                Err(mistake) => {
                    wrong.push(mistake);
                    continue;
                }
            },
        };
        if let Err(error) = pipeline::row::RowCodec::whole(&lowered.input.schema) {
            wrong.push(Diagnostic::at(declaration.place.clone(), error.to_string()));
            continue;
        }
        lowering.dataflow.serve(name, &lowered.input, key.clone());
        projections.push(PlannedProjection {
            name: name.clone(),
            description: options.description.clone(),
            batch: options.batch,
            schema: lowered.input.schema,
            key,
            order: lowered.order,
            access: Access::default(),
        });
    }
    if projections.is_empty() && sinks.is_empty() && wrong.is_empty() {
        wrong.push(
            Diagnostic::of_project("the project has no projection")
                .help("write CREATE MATERIALIZED VIEW name AS SELECT …"),
        );
    }
    let mut warnings = Diagnostics::default();
    access::decide(project, &mut projections, &mut warnings, wrong);
    Description { dataflow: lowering.dataflow, projections, sinks, warnings: warnings.sorted() }
}

/// What is written to a table. Its columns, where it declares any, have the types of the query.
fn plan_sink(
    project: &Project,
    declaration: &QueryDeclaration,
    (table, place): &(String, Place),
    logical: &LogicalPlan,
    lowering: &mut Lowering,
    wrong: &mut Diagnostics,
) -> Option<PlannedSink> {
    let Some(target) = project.tables.get(table) else {
        let known: Vec<&str> = project.tables.keys().map(String::as_str).collect();
        let help = match most_like(table, known.iter().copied()) {
            Some(like) => format!("did you mean `{like}`?"),
            None => format!("write CREATE TABLE {table} WITH (connector = 'kafka', topic = '…', …)"),
        };
        wrong.push(Diagnostic::at(place.clone(), format!("there is no table `{table}`")).help(help));
        return None;
    };
    let lowered = match lowering.lower_projection(&declaration.name, logical) {
        Ok(lowered) => lowered,
        Err(error) => {
            wrong.push(planning_error(&error, declaration, "no plan can be made of this"));
            return None;
        }
    };
    // Columns go by their place, as in an INSERT; with a list of names, by these.
    let schema = if declaration.columns.is_empty() && !target.columns.is_empty() {
        if target.columns.len() != lowered.input.schema.fields().len() {
            let (has, gets) = (target.columns.len(), lowered.input.schema.fields().len());
            let mistake =
                Diagnostic::at(declaration.place.clone(), format!("`{table}` has {has} columns, and gets {gets}"));
            wrong.push(mistake.help("select as many columns as the table declares, in their order"));
            return None;
        }
        let named = lowered.input.schema.fields().iter().zip(&target.columns);
        Arc::new(Schema::new(
            named.map(|(field, column)| field.as_ref().clone().with_name(&column.name)).collect::<Vec<_>>(),
        ))
    } else {
        Arc::clone(&lowered.input.schema)
    };
    for column in &target.columns {
        let (Ok(declared), Ok(field)) = (declared_type(column), schema.field_with_name(&column.name)) else {
            let mistake = Diagnostic::at(declaration.place.clone(), format!("nothing is written to `{}`", column.name));
            wrong.push(mistake.help(format!("select a column for each of those that `{table}` declares")));
            return None;
        };
        if declared != *field.data_type() {
            let gets = filter::type_name(field.data_type()).to_uppercase();
            let what = format!("`{}` is declared as {}, and gets {gets}", column.name, column.data_type);
            let help = format!("write CAST(… AS {}) in the SELECT", column.data_type);
            wrong.push(Diagnostic::at(declaration.place.clone(), what).help(help));
            return None;
        }
    }
    let key = if target.key.is_empty() {
        lowered.key.map_or(ProjectionKey::WholeRow, ProjectionKey::Derived)
    } else {
        match declared_key(&target.key, &target.place, &schema) {
            Ok(columns) => ProjectionKey::Declared(columns),
            Err(mistake) => {
                wrong.push(mistake);
                return None;
            }
        }
    };
    lowering.dataflow.serve(&declaration.name, &lowered.input, key.clone());
    Some(PlannedSink { table: table.clone(), projection: declaration.name.clone(), schema, key })
}

/// The shape that the columns of a declaration give, without asking the source.
///
/// # Errors
/// With the place, when columns are not declared or have a type that is not known.
pub fn declared_shape(project: &Project, name: &str) -> std::result::Result<TableShape, Vec<Diagnostic>> {
    let Some(table) = project.tables.get(name) else { return Err(Vec::new()) };
    if table.columns.is_empty() {
        let mistake = Diagnostic::at(
            table.place.clone(),
            format!("the columns of `{name}` are not declared, and reading them needs its database"),
        );
        return Err(vec![
            mistake.help(format!("leave out --offline, or write CREATE TABLE {name} (id BIGINT PRIMARY KEY, …)")),
        ]);
    }
    let mut mistakes = Vec::new();
    let mut fields = Vec::new();
    for column in &table.columns {
        match declared_type(column) {
            Ok(data_type) => fields.push(arrow::datatypes::Field::new(&column.name, data_type, true)),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let schema = Arc::new(Schema::new(fields));
    let key: Vec<usize> = table.key.iter().filter_map(|name| schema.index_of(name).ok()).collect();
    if key.len() < table.key.len() {
        return Err(vec![Diagnostic::at(table.place.clone(), "the PRIMARY KEY names a column that is not declared")]);
    }
    let identity = if key.is_empty() { Identity::WholeRow } else { Identity::Key(key) };
    Ok(TableShape { schema, identity })
}

/// The Arrow type of a declared column, in the words of DataFusion's SQL.
///
/// # Errors
/// With the place, when there is none.
pub fn declared_type(column: &DeclaredColumn) -> std::result::Result<DataType, Diagnostic> {
    arrow_type(&column.data_type).map_err(|name| {
        Diagnostic::at(column.place.clone(), format!("column `{}` has the unknown type {name}", column.name))
            .help("declare it as TEXT to take the value as Postgres prints it")
    })
}

/// The Arrow type of a type of SQL; its name, when there is none.
pub(crate) fn arrow_type(data_type: &SqlDataType) -> std::result::Result<DataType, String> {
    let other = match data_type {
        SqlDataType::Uuid | SqlDataType::JSON | SqlDataType::JSONB => return Ok(DataType::Utf8),
        SqlDataType::Custom(name, _) => name.to_string(),
        other => other.to_string(),
    };
    let sql = format!("SELECT CAST(NULL AS {other})");
    let state = session().state();
    let plan = state
        .sql_to_statement(&sql, &datafusion::config::Dialect::Generic)
        .and_then(|statement| block_on(state.statement_to_plan(statement)));
    match plan {
        // Postgres's have microseconds, and so have all sources.
        Ok(plan) => Ok(match plan.schema().field(0).data_type() {
            DataType::Timestamp(TimeUnit::Nanosecond, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
            DataType::Time64(TimeUnit::Nanosecond) => DataType::Time64(TimeUnit::Microsecond),
            data_type => data_type.clone(),
        }),
        Err(_) => Err(other),
    }
}

struct Planned<'a> {
    project: &'a Project,
    shapes: &'a BTreeMap<String, TableShape>,
    context: SessionContext,
    /// `None` where a mistake has been reported.
    done: BTreeMap<String, Option<LogicalPlan>>,
}

impl Planned<'_> {
    /// Plans a query after those that it reads. `path` is the way here, for finding cycles.
    fn visit(&mut self, name: &str, path: &mut Vec<String>, wrong: &mut Diagnostics) -> Option<LogicalPlan> {
        if let Some(done) = self.done.get(name) {
            return done.clone();
        }
        let declaration = self.project.queries.get(name)?;
        path.push(name.to_owned());
        let mut is_right = true;
        for Relation { name: needed, span, may_be_own } in relations(&declaration.query) {
            if may_be_own {
                if !path.contains(&needed) && self.project.queries.contains_key(&needed) {
                    self.visit(&needed, path, wrong);
                }
                continue;
            }
            let place = || place_of(span, declaration);
            if path.contains(&needed) {
                let from = path.iter().position(|on_the_way| *on_the_way == needed).unwrap_or(0);
                let cycle = [&path[from..], std::slice::from_ref(&needed)].concat().join(" → ");
                wrong.push(
                    Diagnostic::at(place(), format!("`{needed}` needs itself: {cycle}"))
                        .help("take one of them out of the circle"),
                );
                path[from..].iter().for_each(|member| drop(self.done.insert(member.clone(), None)));
                is_right = false;
            } else if self.project.queries.contains_key(&needed) {
                is_right &= self.visit(&needed, path, wrong).is_some();
            } else if self.project.is_sink(&needed) {
                let mistake = Diagnostic::at(place(), format!("`{needed}` is written to by an INSERT INTO"));
                wrong.push(mistake.help("to read the topic too, declare another table for it"));
                is_right = false;
            } else if self.project.tables.contains_key(&needed) {
                // A table without a shape has been reported by whoever looked for it.
                is_right &= self.shapes.contains_key(&needed);
            } else {
                wrong.push(self.unknown_relation(&needed, place()));
                is_right = false;
            }
        }
        path.pop();
        let planned =
            if is_right && !self.done.contains_key(name) { self.plan_query(declaration, wrong) } else { None };
        self.done.insert(name.to_owned(), planned.clone());
        planned
    }

    fn unknown_relation(&self, name: &str, place: Place) -> Diagnostic {
        let known: Vec<&str> =
            self.project.tables.keys().chain(self.project.queries.keys()).map(String::as_str).collect();
        let help = match most_like(name, known.iter().copied()) {
            Some(like) => format!("did you mean `{like}`?"),
            None => format!(
                "write CREATE TABLE {name} WITH (connector = 'postgres', …); the project has {}",
                known.join(", ")
            ),
        };
        Diagnostic::at(place, format!("there is no table or view `{name}`")).help(help)
    }

    fn plan_query(&self, declaration: &QueryDeclaration, wrong: &mut Diagnostics) -> Option<LogicalPlan> {
        let statement = Statement::Query(Box::new(declaration.query.clone()));
        let state = self.context.state();
        let plan = block_on(state.statement_to_plan(DfStatement::Statement(Box::new(statement))))
            .and_then(|plan| renamed(plan, &declaration.columns))
            .and_then(|plan| {
                if let Some(reason) = cannot_be_kept(&plan)? {
                    return Err(DataFusionError::Plan(reason));
                }
                // Optimised here to find mistakes of types at their place; lowering wants it anyway.
                let optimized = state.optimize(&plan)?;
                self.context.register_table(quoted(&declaration.name), Arc::new(ViewTable::new(plan, None)))?;
                Ok(optimized)
            });
        match plan {
            Ok(plan) => Some(plan),
            Err(error) => {
                wrong.push(planning_error(&error, declaration, "this query is not right"));
                None
            }
        }
    }
}

/// `CREATE VIEW name (columns) AS`: the names given to the columns of the query.
fn renamed(plan: LogicalPlan, names: &[String]) -> Result<LogicalPlan> {
    if names.is_empty() {
        return Ok(plan);
    }
    let columns = plan.schema().columns();
    if columns.len() != names.len() {
        return Err(DataFusionError::Plan(format!(
            "{} column names are given for {} columns",
            names.len(),
            columns.len()
        )));
    }
    let exprs: Vec<Expr> =
        columns.into_iter().zip(names).map(|(column, name)| Expr::Column(column).alias(name)).collect();
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}

/// What a query reads, in the order of appearance.
struct Relation {
    name: String,
    span: Span,
    /// A WITH clause around it defines the name. Whether it is meant is for DataFusion to tell
    /// (`WITH z AS (SELECT * FROM z)` reads another `z`), so such a name is only planned first.
    may_be_own: bool,
}

fn relations(query: &Query) -> Vec<Relation> {
    #[derive(Default)]
    struct Names {
        defined: Vec<BTreeSet<String>>,
        read: Vec<Relation>,
    }
    impl Visitor for Names {
        type Break = ();

        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            self.defined.push(
                query.with.iter().flat_map(|with| &with.cte_tables).map(|cte| normalise(&cte.alias.name)).collect(),
            );
            ControlFlow::Continue(())
        }

        fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.defined.pop();
            ControlFlow::Continue(())
        }

        fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
            let name = name_of(relation);
            let may_be_own = self.defined.iter().any(|defined| defined.contains(&name));
            self.read.push(Relation { name, span: relation.span(), may_be_own });
            ControlFlow::Continue(())
        }
    }
    let mut names = Names::default();
    let _ = query.visit(&mut names);
    names.read
}

/// Why a query can't be kept, if it can't: its answer would not be a function of the tables, or
/// DataFusion is known to get it wrong.
fn cannot_be_kept(plan: &LogicalPlan) -> Result<Option<String>> {
    let mut reason = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::SetComparison(comparison) = expr
                    && comparison.quantifier == SetQuantifier::All
                {
                    // Seen on 55.2: `n >= ALL (SELECT n FROM t)` is true for every row.
                    reason = Some("DataFusion 55 answers comparisons with ALL (SELECT …) wrongly".to_owned());
                }
                if let Expr::ScalarFunction(function) = expr {
                    let name = function.func.name();
                    match function.func.signature().volatility {
                        Volatility::Volatile => {
                            reason = Some(format!(
                                "{name}() is different at each call, so the answer is not a function of the tables"
                            ));
                        }
                        Volatility::Stable
                            if ["now", "current_date", "current_time", "current_timestamp", "today"]
                                .contains(&name) =>
                        {
                            reason = Some(format!(
                                "{name}() changes as time passes, so the answer is not a function of the tables"
                            ));
                        }
                        _ => {}
                    }
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(reason)
}

/// DataFusion's error with our place and remedy.
fn planning_error(error: &DataFusionError, declaration: &QueryDeclaration, otherwise: &str) -> Diagnostic {
    let diagnostic = error.diagnostic();
    let span = diagnostic.and_then(|diagnostic| diagnostic.span).map_or(Span::empty(), |span| {
        Span::new(Location::new(span.start.line, span.start.column), Location::new(span.end.line, span.end.column))
    });
    let place = place_of(span, declaration);
    let root = error.find_root();
    if let DataFusionError::SchemaError(schema, _) = root
        && let SchemaError::FieldNotFound { field, valid_fields } = schema.as_ref()
    {
        let help = match most_like(&field.name, valid_fields.iter().map(|field| field.name.as_str())) {
            Some(like) => format!("did you mean `{like}`?"),
            None => {
                let mut names: Vec<String> = valid_fields.iter().map(datafusion::common::Column::flat_name).collect();
                names.dedup();
                format!("there are {}", names.join(", "))
            }
        };
        let place = if span == Span::empty() { find_word(declaration, &field.name).unwrap_or(place) } else { place };
        return Diagnostic::at(place, format!("there is no column `{}`", field.flat_name())).help(help);
    }
    let mut text = match diagnostic {
        Some(diagnostic) => diagnostic.message.clone(),
        None => root.strip_backtrace(),
    };
    for prefix in [
        "Error during planning: ",
        "This feature is not implemented: ",
        "Schema error: ",
        "Optimizer rule ",
        "type_coercion\ncaused by\n",
    ] {
        text = text.trim_start_matches(prefix).to_owned();
    }
    let text = if text.is_empty() { otherwise.to_owned() } else { lower_first(text.trim()) };
    let mistake = Diagnostic::at(place, text.replace('\n', " "));
    let helps = diagnostic.map(|diagnostic| {
        diagnostic.helps.iter().map(|help| lower_first(&help.message)).collect::<Vec<_>>().join("; ")
    });
    if mistake.message.contains("not a function of the tables") {
        // The message begins with the function.
        let function = mistake.message.split('(').next().unwrap_or_default().to_owned();
        let place = find_word(declaration, &function).or(mistake.place.clone());
        return Diagnostic { place, ..mistake }.help("compute it where the rows are written, and keep it in a column");
    }
    if mistake.message.contains("with ALL (SELECT") {
        return mistake.help("write NOT EXISTS (SELECT … WHERE NOT …), or compare with a max or min");
    }
    match helps.filter(|help| !help.is_empty()) {
        Some(help) => mistake.help(help),
        None => mistake,
    }
}

/// Where a word of the statement stands, for errors that come without a place.
fn find_word(declaration: &QueryDeclaration, word: &str) -> Option<Place> {
    let file = &declaration.place.file;
    let from = usize::try_from(declaration.place.line).ok()? - 1;
    for (i, text) in file.text.lines().enumerate().skip(from) {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        for (at, found) in text.match_indices(word) {
            let before = text[..at].chars().next_back();
            let after = text[at + found.len()..].chars().next();
            if !before.is_some_and(is_word) && !after.is_some_and(is_word) {
                let column = text[..at].chars().count() as u64 + 1;
                let start = Location::new(i as u64 + 1, column);
                return Some(Place::new(
                    file,
                    Span::new(start, Location::new(start.line, column + word.chars().count() as u64)),
                ));
            }
        }
    }
    None
}

fn place_of(span: Span, declaration: &QueryDeclaration) -> Place {
    if span == Span::empty() { declaration.place.clone() } else { Place::new(&declaration.place.file, span) }
}

fn declared_key(names: &[String], place: &Place, schema: &Schema) -> std::result::Result<Vec<usize>, Diagnostic> {
    let mut columns = Vec::new();
    for name in names {
        match schema.index_of(name) {
            Ok(column) if columns.contains(&column) => {
                return Err(Diagnostic::at(place.clone(), format!("the key names `{name}` twice"))
                    .help("name each key column once"));
            }
            Ok(column) => columns.push(column),
            Err(_) => {
                let known: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                let help = match most_like(name, known.iter().copied()) {
                    Some(like) => format!("did you mean `{like}`?"),
                    None => format!("the projection has {}", known.join(", ")),
                };
                return Err(Diagnostic::at(
                    place.clone(),
                    format!("the key names `{name}`, which is no column of the projection"),
                )
                .help(help));
            }
        }
    }
    Ok(columns)
}

/// Deltas take rows away, and a value that a source could not give is NULL: no column is promised
/// to be without.
fn nullable(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(
        schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect::<Vec<_>>(),
    ))
}

fn quoted(name: &str) -> datafusion::common::TableReference {
    datafusion::common::TableReference::bare(name)
}

/// Planning is async in name only: nothing here waits for anything.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    futures::executor::block_on(future)
}
