//! Who may see what: CREATE POLICY and GRANT as they are written, and what they become for a projection.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, Schema};
use datafusion::sql::sqlparser::ast::{
    Action, BinaryOperator, CreatePolicy, CreatePolicyCommand, CreatePolicyType, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArguments, Grant as SqlGrant, GrantObjects, GranteeName, GranteesType, Ident, Owner,
    Privileges, Spanned, UnaryOperator, Value, ValueWithSpan,
};
use datafusion::sql::sqlparser::tokenizer::Span;
use filter::{Access, ClaimPath, FilterError, Grant, Literal, Operand, Operator, Policy, Roles, Template};
use pipeline::projection::ProjectionKey;

use crate::diagnostic::{Diagnostic, Diagnostics, Place, most_like};
use crate::plan::{PlannedProjection, arrow_type};
use crate::project::{GrantDeclaration, PolicyDeclaration, Project, name_of, name_place, normalise};

const POLICY_FORM: &str =
    "write CREATE POLICY name ON projection [AS RESTRICTIVE] [FOR SELECT] [TO role, …] USING (condition)";
const GRANT_FORM: &str = "write GRANT SELECT [(column, …)] ON projection TO role, …";
const CONDITION_FORM: &str = "a policy is made of columns, constants and claim('…'); = <> < <= > >=, IN, BETWEEN, \
     LIKE, ILIKE, IS NULL, = ANY (claim('…')); AND, OR, NOT; CAST of constants and claims. Anything else can be a \
     column of the projection, hidden by WITH (hide = '…')";

/// Reads CREATE POLICY.
pub(crate) fn policy(policy: CreatePolicy, place: &Place) -> Result<PolicyDeclaration, Diagnostic> {
    let wrong = |message: &str| Diagnostic::at(place.clone(), message).help(POLICY_FORM);
    if !matches!(policy.command, None | Some(CreatePolicyCommand::Select | CreatePolicyCommand::All)) {
        return Err(wrong("clients of a projection only read, so its policies are FOR SELECT"));
    }
    if policy.with_check.is_some() {
        return Err(wrong("clients of a projection only read, so its policies have no WITH CHECK"));
    }
    let Some(using) = policy.using else { return Err(wrong("the policy does not say which rows it is for")) };
    Ok(PolicyDeclaration {
        name: normalise(&policy.name),
        on: (name_of(&policy.table_name), name_place(&policy.table_name, place)),
        is_restrictive: policy.policy_type == Some(CreatePolicyType::Restrictive),
        roles: policy_roles(policy.to.unwrap_or_default(), place)?,
        using,
        place: place.clone(),
    })
}

fn policy_roles(owners: Vec<Owner>, place: &Place) -> Result<Roles, Diagnostic> {
    let mut names = BTreeSet::new();
    for owner in &owners {
        match owner {
            Owner::Ident(ident) if is_public(ident) => return Ok(Roles::Everyone),
            Owner::Ident(ident) => names.insert(normalise(ident)),
            other => {
                return Err(Diagnostic::at(place.clone(), format!("{other} is nobody here"))
                    .help("roles are those that tokens name; PUBLIC is everyone"));
            }
        };
    }
    Ok(if owners.is_empty() { Roles::Everyone } else { Roles::Named(names) })
}

fn is_public(ident: &Ident) -> bool {
    ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("public")
}

/// Reads GRANT SELECT.
pub(crate) fn grant(grant: SqlGrant, place: &Place) -> Result<GrantDeclaration, Diagnostic> {
    let wrong = |message: String| Diagnostic::at(place.clone(), message).help(GRANT_FORM);
    let Privileges::Actions(actions) = grant.privileges else {
        return Err(wrong("clients of a projection only read: grant SELECT".to_owned()));
    };
    let [Action::Select { columns }] = actions.as_slice() else {
        return Err(wrong("clients of a projection only read: grant SELECT, and nothing else".to_owned()));
    };
    let Some(GrantObjects::Tables(on)) = grant.objects else {
        return Err(wrong("a grant is ON projections, each by its name".to_owned()));
    };
    if grant.with_grant_option || grant.as_grantor.is_some() || grant.granted_by.is_some() {
        return Err(wrong("a grant is passed on by nobody here".to_owned()));
    }
    let mut names = BTreeSet::new();
    let mut is_for_everyone = false;
    for grantee in &grant.grantees {
        match (&grantee.grantee_type, &grantee.name) {
            (GranteesType::Public, _) => is_for_everyone = true,
            (GranteesType::None | GranteesType::Role, Some(GranteeName::ObjectName(name))) => {
                names.insert(name_of(name));
            }
            _ => return Err(wrong(format!("{grantee} is nobody here; roles are those that tokens name"))),
        }
    }
    let columns = columns.as_ref().map(|columns| {
        columns.iter().map(|column| (normalise(column), Place::new(&place.file, column.span))).collect()
    });
    Ok(GrantDeclaration {
        columns,
        on: on.iter().map(|name| (name_of(name), name_place(name, place))).collect(),
        roles: if is_for_everyone { Roles::Everyone } else { Roles::Named(names) },
    })
}

/// Gives each planned projection its access.
pub(crate) fn decide(
    project: &Project,
    projections: &mut [PlannedProjection],
    warnings: &mut Diagnostics,
    wrong: &mut Diagnostics,
) {
    for (name, place) in
        project.policies.iter().map(|it| &it.on).chain(project.grants.iter().flat_map(|grant| &grant.on))
    {
        if project.queries.get(name).is_none_or(|query| query.projection.is_none()) {
            wrong.push(no_projection(project, name, place));
        }
    }
    for planned in projections {
        let Some((declaration, options)) =
            project.queries.get(&planned.name).and_then(|query| Some((query, query.projection.as_ref()?)))
        else {
            continue;
        };
        let mistakes_before = wrong.0.len();
        let hidden = options.hide.as_ref().map(|(names, place)| hidden(planned, names, place, wrong));
        let mut access =
            Access { is_public: options.public.is_some(), hidden: hidden.unwrap_or_default(), ..Access::default() };
        for policy in project.policies.iter().filter(|policy| policy.on.0 == planned.name) {
            if let Some(place) = &options.public {
                let message =
                    format!("`{}` is public, and policy `{}` would decide nothing", planned.name, policy.name);
                wrong.push(Diagnostic::at(place.clone(), message).help("remove one of them"));
            }
            if access.policies.iter().any(|other| other.name == policy.name) {
                let message = format!("`{}` has two policies named `{}`", planned.name, policy.name);
                wrong.push(Diagnostic::at(policy.place.clone(), message).help("rename one of them"));
            }
            let condition = Condition { projection: &planned.name, schema: &planned.schema, place: &policy.place };
            match condition.formula(&policy.using) {
                Ok(using) => access.policies.push(Policy {
                    name: policy.name.clone(),
                    is_restrictive: policy.is_restrictive,
                    roles: policy.roles.clone(),
                    using,
                    text: policy.using.to_string(),
                }),
                Err(mistake) => wrong.push(*mistake),
            }
        }
        for grant in &project.grants {
            if let Some((_, place)) = grant.on.iter().find(|(name, _)| *name == planned.name) {
                match granted(planned, grant, place, &access.hidden) {
                    Ok(columns) => access.grants.push(Grant { columns, roles: grant.roles.clone() }),
                    Err(mistake) => wrong.push(*mistake),
                }
            }
        }
        if access.is_private() && wrong.0.len() == mistakes_before {
            let place = declaration.place.clone();
            let why = if access.policies.is_empty() { "no policy" } else { "only restrictive policies" };
            warnings.push(
                Diagnostic::warning(place, format!("`{}` has {why}, so nobody sees a row of it", planned.name))
                    .help("add a CREATE POLICY, or WITH (public = 'true') where everyone may see every row"),
            );
        }
        planned.access = access;
    }
}

fn no_projection(project: &Project, name: &str, place: &Place) -> Diagnostic {
    let what = if project.tables.contains_key(name) {
        "is a table, which no client reads"
    } else if project.queries.contains_key(name) {
        "is a view, which no client reads"
    } else {
        "is no projection"
    };
    let known: Vec<&str> =
        project.queries.iter().filter(|(_, query)| query.projection.is_some()).map(|(name, _)| name.as_str()).collect();
    let help = match most_like(name, known.iter().copied()) {
        Some(like) => format!("did you mean `{like}`?"),
        None => format!("the project has {}", known.join(", ")),
    };
    Diagnostic::at(place.clone(), format!("`{name}` {what}")).help(help)
}

fn key_columns(planned: &PlannedProjection) -> Vec<usize> {
    match &planned.key {
        ProjectionKey::WholeRow => (0..planned.schema.fields().len()).collect(),
        ProjectionKey::Derived(columns) | ProjectionKey::Declared(columns) => columns.clone(),
    }
}

const KEY_HELP: &str = "clients tell rows apart by the key, so they need it; with WITH (key = '…') it can be another";

fn hidden(planned: &PlannedProjection, names: &[String], place: &Place, wrong: &mut Diagnostics) -> BTreeSet<usize> {
    let key = key_columns(planned);
    let mut hidden = BTreeSet::new();
    for name in names {
        match planned.schema.index_of(name) {
            Ok(column) if key.contains(&column) => {
                let message = if planned.key == ProjectionKey::WholeRow {
                    format!("`{name}` can't be hidden, since the whole row is the key")
                } else {
                    format!("`{name}` can't be hidden, since it is of the key")
                };
                wrong.push(Diagnostic::at(place.clone(), message).help(KEY_HELP));
            }
            Ok(column) => drop(hidden.insert(column)),
            Err(_) => wrong.push(no_column(&planned.name, &planned.schema, name, place.clone())),
        }
    }
    hidden
}

fn granted(
    planned: &PlannedProjection,
    grant: &GrantDeclaration,
    on: &Place,
    hidden: &BTreeSet<usize>,
) -> Result<Option<BTreeSet<usize>>, Box<Diagnostic>> {
    let Some(names) = &grant.columns else { return Ok(None) };
    let mut columns = BTreeSet::new();
    for (name, place) in names {
        let column = planned
            .schema
            .index_of(name)
            .map_err(|_| no_column(&planned.name, &planned.schema, name, place.clone()))?;
        if hidden.contains(&column) {
            let message = format!("`{name}` is hidden from everyone, so it can't be granted");
            return Err(Box::new(
                Diagnostic::at(place.clone(), message).help("leave it out here, or in WITH (hide = '…')"),
            ));
        }
        columns.insert(column);
    }
    if let Some(missing) = key_columns(planned).iter().find(|column| !columns.contains(column)) {
        let message = format!("the grant leaves out `{}`, which is of the key", planned.schema.field(*missing).name());
        return Err(Box::new(Diagnostic::at(on.clone(), message).help(KEY_HELP)));
    }
    Ok(Some(columns))
}

fn no_column(projection: &str, schema: &Schema, name: &str, place: Place) -> Diagnostic {
    let known: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let help = match most_like(name, known.iter().copied()) {
        Some(like) => format!("did you mean `{like}`?"),
        None => format!("it has {}", known.join(", ")),
    };
    Diagnostic::at(place, format!("`{projection}` has no column `{name}`")).help(help)
}

/// A condition of a policy, on its way to a template.
struct Condition<'a> {
    projection: &'a str,
    schema: &'a Schema,
    place: &'a Place,
}

type Checked<T> = Result<T, Box<Diagnostic>>;

impl Condition<'_> {
    fn formula(&self, expr: &Expr) -> Checked<Template> {
        let at = |template: Result<Template, FilterError>| {
            template.map_err(|error| self.wrong(expr.span(), error.to_string()))
        };
        let negated_if = |is_negated: bool, template: Template| if is_negated { template.negated() } else { template };
        match expr {
            Expr::Nested(inner) => self.formula(inner),
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                Ok(Template::every([self.formula(left)?, self.formula(right)?]))
            }
            Expr::BinaryOp { left, op: BinaryOperator::Or, right } => {
                Ok(Template::any([self.formula(left)?, self.formula(right)?]))
            }
            Expr::BinaryOp { left, op, right } => {
                let operator = match op {
                    BinaryOperator::Eq => Operator::Eq,
                    BinaryOperator::NotEq => Operator::NotEq,
                    BinaryOperator::Lt => Operator::Lt,
                    BinaryOperator::LtEq => Operator::LtEq,
                    BinaryOperator::Gt => Operator::Gt,
                    BinaryOperator::GtEq => Operator::GtEq,
                    other => return Err(self.unsupported(expr, &format!("the operator {other}"))),
                };
                at(Template::compare(self.operand(left)?, operator, self.operand(right)?, self.schema))
            }
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => Ok(self.formula(expr)?.negated()),
            Expr::InList { expr: inner, list, negated } => {
                let list = list.iter().map(|item| self.operand(item)).collect::<Checked<Vec<_>>>()?;
                let template = at(Template::is_in(self.operand(inner)?, list, self.schema))?;
                Ok(negated_if(*negated, template))
            }
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => self.any(expr, left, right),
            Expr::AllOp { left, compare_op: BinaryOperator::NotEq, right } => {
                Ok(self.any(expr, left, right)?.negated())
            }
            Expr::AnyOp { .. } => Err(self.unsupported(expr, "ANY but with =")),
            Expr::AllOp { .. } => Err(self.unsupported(expr, "ALL but with <>")),
            Expr::Between { expr: inner, negated, low, high } => {
                let inner = self.operand(inner)?;
                let from = at(Template::compare(inner.clone(), Operator::GtEq, self.operand(low)?, self.schema))?;
                let to = at(Template::compare(inner, Operator::LtEq, self.operand(high)?, self.schema))?;
                Ok(negated_if(*negated, Template::every([from, to])))
            }
            Expr::Like { negated, any, expr: inner, pattern, escape_char }
            | Expr::ILike { negated, any, expr: inner, pattern, escape_char } => {
                if *any || escape_char.is_some() {
                    return Err(self.unsupported(expr, "LIKE with ANY or ESCAPE"));
                }
                let is_insensitive = matches!(expr, Expr::ILike { .. });
                let (inner, pattern) = (self.operand(inner)?, self.operand(pattern)?);
                Ok(negated_if(*negated, at(Template::like(inner, pattern, is_insensitive, self.schema))?))
            }
            Expr::IsNull(inner) => at(Template::is_null(self.operand(inner)?, self.schema)),
            Expr::IsNotNull(inner) => Ok(at(Template::is_null(self.operand(inner)?, self.schema))?.negated()),
            Expr::IsDistinctFrom(left, right) => self.distinct(expr, left, right),
            Expr::IsNotDistinctFrom(left, right) => Ok(self.distinct(expr, left, right)?.negated()),
            Expr::Value(ValueWithSpan { value: Value::Boolean(is_all), .. }) => {
                Ok(if *is_all { Template::all() } else { Template::none() })
            }
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) => {
                let operand = self.operand(expr)?;
                if let Operand::Column(column) = operand
                    && *self.schema.field(column).data_type() != DataType::Boolean
                {
                    let data_type = filter::type_name(self.schema.field(column).data_type());
                    let message = format!("`{expr}` is {data_type}, and a condition is true or false");
                    return Err(self.wrong(expr.span(), message));
                }
                at(Template::compare(operand, Operator::Eq, Operand::literal(Literal::Boolean(true)), self.schema))
            }
            Expr::Cast { data_type, .. } if arrow_type(data_type) == Ok(DataType::Boolean) => at(Template::compare(
                self.operand(expr)?,
                Operator::Eq,
                Operand::literal(Literal::Boolean(true)),
                self.schema,
            )),
            Expr::Function(_) => {
                self.operand(expr)?;
                Err(self
                    .wrong(expr.span(), "a claim is text or a list; compare it with something")
                    .helped("write claim('…') = '…', or claim('…')::boolean for one that is true or false"))
            }
            other => Err(self.unsupported(other, what_it_is(other))),
        }
    }

    fn any(&self, whole: &Expr, left: &Expr, right: &Expr) -> Checked<Template> {
        let right = self.operand(right)?;
        if !matches!(right, Operand::Claim(..)) {
            return Err(self.unsupported(whole, "ANY or ALL of what is no claim"));
        }
        Template::is_in(self.operand(left)?, vec![right], self.schema)
            .map_err(|error| self.wrong(whole.span(), error.to_string()))
    }

    /// With a constant alone: a claim that is missing would be NULL, and not distinct from the NULLs of rows.
    fn distinct(&self, whole: &Expr, left: &Expr, right: &Expr) -> Checked<Template> {
        let (left, right) = (self.operand(left)?, self.operand(right)?);
        let (column, constant) = match (left, right) {
            (column @ Operand::Column(_), constant @ Operand::Literal(..))
            | (constant @ Operand::Literal(..), column @ Operand::Column(_)) => (column, constant),
            _ => return Err(self.unsupported(whole, "IS DISTINCT FROM but of a column and a constant")),
        };
        let at = |error: FilterError| self.wrong(whole.span(), error.to_string());
        let is_null = Template::is_null(column.clone(), self.schema).map_err(at)?;
        let differs = Template::compare(column, Operator::NotEq, constant, self.schema).map_err(at)?;
        Ok(Template::any([is_null, differs]))
    }

    fn operand(&self, expr: &Expr) -> Checked<Operand> {
        match expr {
            Expr::Nested(inner) => self.operand(inner),
            Expr::Identifier(column) => self.column(column),
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [of, column] if normalise(of) == self.projection => self.column(column),
                _ => Err(self.wrong(expr.span(), format!("a policy of `{}` sees its columns alone", self.projection))),
            },
            Expr::Value(value) => self.literal(expr, &value.value).map(Operand::literal),
            Expr::UnaryOp { op: op @ (UnaryOperator::Minus | UnaryOperator::Plus), expr: inner } => {
                match inner.as_ref() {
                    Expr::Value(ValueWithSpan { value: Value::Number(number, _), .. }) => {
                        Ok(Operand::literal(Literal::Number(format!("{op}{number}"))))
                    }
                    _ => Err(self.unsupported(expr, "arithmetic")),
                }
            }
            Expr::TypedString(typed) => {
                let literal = self.literal(expr, &typed.value.value)?;
                Ok(Operand::Literal(literal, Some(self.data_type(expr, &typed.data_type)?)))
            }
            Expr::Cast { expr: inner, data_type, array: false, format: None, .. } => {
                let data_type = self.data_type(expr, data_type)?;
                match self.operand(inner)? {
                    Operand::Literal(literal, None) => Ok(Operand::Literal(literal, Some(data_type))),
                    Operand::Claim(path, None) => Ok(Operand::Claim(path, Some(data_type))),
                    Operand::Column(_) => Err(self.unsupported(expr, "a cast of a column")),
                    Operand::Literal(..) | Operand::Claim(..) => Err(self.unsupported(expr, "a cast of a cast")),
                }
            }
            Expr::Function(function) => self.claim(expr, function).map(Operand::claim),
            other => Err(self.unsupported(other, what_it_is(other))),
        }
    }

    fn column(&self, column: &Ident) -> Checked<Operand> {
        let name = normalise(column);
        self.schema
            .index_of(&name)
            .map(Operand::Column)
            .map_err(|_| Box::new(no_column(self.projection, self.schema, &name, self.at(column.span))))
    }

    fn literal(&self, expr: &Expr, value: &Value) -> Checked<Literal> {
        Ok(match value {
            Value::Null => Literal::Null,
            Value::Boolean(value) => Literal::Boolean(*value),
            Value::Number(text, _) => Literal::Number(text.clone()),
            Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => Literal::Text(text.clone()),
            Value::DollarQuotedString(text) => Literal::Text(text.value.clone()),
            _ => return Err(self.unsupported(expr, "a constant of this kind")),
        })
    }

    fn data_type(&self, expr: &Expr, data_type: &datafusion::sql::sqlparser::ast::DataType) -> Checked<DataType> {
        arrow_type(data_type).map_err(|name| self.wrong(expr.span(), format!("there is no type {name}")))
    }

    fn claim(&self, expr: &Expr, function: &Function) -> Checked<ClaimPath> {
        let name = name_of(&function.name);
        if name != "claim" {
            return Err(self.unsupported(expr, &format!("the function {name}()")));
        }
        let FunctionArguments::List(arguments) = &function.args else {
            return Err(self.wrong(expr.span(), "claim() takes the name of a claim"));
        };
        let path = match arguments.args.as_slice() {
            [
                FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(ValueWithSpan {
                    value: Value::SingleQuotedString(path),
                    ..
                }))),
            ] => path,
            _ => {
                return Err(self
                    .wrong(expr.span(), "claim() takes the name of a claim, in single quotes")
                    .helped("write claim('sub') or claim('app_metadata.org')"));
            }
        };
        ClaimPath::parse(path).map_err(|error| self.wrong(expr.span(), error.to_string()))
    }

    fn unsupported(&self, expr: &Expr, what: &str) -> Box<Diagnostic> {
        self.wrong(expr.span(), format!("a policy can't have {what}")).helped(CONDITION_FORM)
    }

    fn wrong(&self, span: Span, message: impl Into<String>) -> Box<Diagnostic> {
        Box::new(Diagnostic::at(self.at(span), message))
    }

    fn at(&self, span: Span) -> Place {
        if span == Span::empty() { self.place.clone() } else { Place::new(&self.place.file, span) }
    }
}

trait Helped {
    fn helped(self, help: &str) -> Self;
}

impl Helped for Box<Diagnostic> {
    fn helped(self, help: &str) -> Box<Diagnostic> {
        Box::new(self.help(help))
    }
}

fn what_it_is(expr: &Expr) -> &'static str {
    match expr {
        Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => "a subquery",
        Expr::Case { .. } => "CASE",
        Expr::BinaryOp { op: BinaryOperator::And | BinaryOperator::Or, .. } => {
            "AND or OR within a comparison (put the comparison in parentheses)"
        }
        Expr::BinaryOp { .. } | Expr::UnaryOp { .. } => "arithmetic",
        Expr::Value(_) | Expr::TypedString(_) => "a constant that is neither true nor false as a condition",
        Expr::IsTrue(_) | Expr::IsNotTrue(_) | Expr::IsFalse(_) | Expr::IsNotFalse(_) => "IS TRUE or IS FALSE",
        Expr::Interval(_) => "INTERVAL (cast text instead)",
        Expr::Cast { .. } => "a cast of this kind",
        _ => "an expression of this kind",
    }
}
