//! GROUP BY and its aggregate calls.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, when};
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use pipeline::{AggregateCall, AggregateKind};

use super::meaning::meaning_of;
use super::{Lowered, Lowering, listed, plain, plain_arrow};
use crate::expr::PlannedAggregate;

struct Call {
    kind: AggregateKind,
    arguments: Vec<Expr>,
    filter: Option<Expr>,
}

impl Lowering {
    pub(super) fn aggregate(&mut self, aggregate: &Aggregate) -> Result<Option<Lowered>> {
        if aggregate.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
            return Ok(None);
        }
        let input_schema = aggregate.input.schema();
        let output = plain(&aggregate.schema);
        let groups = aggregate.group_expr.len();
        let mut needed: Vec<Expr> = aggregate.group_expr.clone();
        let mut calls = Vec::new();
        for (i, expr) in aggregate.aggr_expr.iter().enumerate() {
            let data_type = output.field(groups + i).data_type();
            let Some(call) = self.call(expr, input_schema, data_type)? else { return Ok(None) };
            // CASE is lazy: where the filter is not true the argument is not computed, so that it
            // can't fail there and take its row out of the other aggregates.
            let arguments = match &call.filter {
                None => call.arguments,
                Some(filter) => call
                    .arguments
                    .into_iter()
                    .map(|argument| when(filter.clone(), argument).end())
                    .collect::<Result<_>>()?,
            };
            let filter = call.filter.map(|filter| {
                needed.push(filter);
                needed.len() - 1
            });
            let first = needed.len();
            needed.extend(arguments);
            calls.push((call.kind, first..needed.len(), filter));
        }
        let input = self.lower(&aggregate.input)?;
        let (input, columns) = self.columns_for(&input, &needed, input_schema)?;
        let calls: Vec<AggregateCall> = calls
            .into_iter()
            .map(|(kind, arguments, filter)| AggregateCall {
                kind,
                arguments: columns[arguments].to_vec(),
                filter: filter.map(|filter| columns[filter]),
            })
            .collect();
        let label = match (groups, aggregate.aggr_expr.len()) {
            (_, 0) => format!("distinct {}", listed(&aggregate.group_expr)),
            (0, _) => format!("aggregate {}", listed(&aggregate.aggr_expr)),
            _ => format!("group by {}: {}", listed(&aggregate.group_expr), listed(&aggregate.aggr_expr)),
        };
        let meaning = meaning_of(&aggregate.aggr_expr, input_schema)?;
        let node = self.dataflow.group_by(
            label,
            &input.input,
            columns[..groups].to_vec(),
            calls,
            Arc::clone(&output),
            &meaning,
        );
        Ok(Some(self.all_of(node, Some((0..groups).collect()))))
    }

    /// How an aggregate call is maintained; `None` when only DataFusion's executor can.
    fn call(&self, expr: &Expr, schema: &DFSchema, data_type: &DataType) -> Result<Option<Call>> {
        let Expr::AggregateFunction(AggregateFunction { func, params }) = expr.clone().unalias() else {
            return Ok(None);
        };
        if !params.order_by.is_empty() {
            return Ok(None);
        }
        let filter = params.filter.as_ref().map(|filter| filter.as_ref().clone());
        let argument_types = params.args.iter().map(|arg| arg.get_type(schema)).collect::<Result<Vec<_>>>()?;
        let built_in = match (func.name(), &argument_types[..]) {
            _ if params.distinct => None,
            ("count", []) => Some((AggregateKind::Count, Vec::new())),
            ("count", [_]) => Some((
                AggregateKind::Count,
                match &params.args[0] {
                    Expr::Literal(value, _) if !value.is_null() => Vec::new(),
                    argument => vec![argument.clone()],
                },
            )),
            ("sum", [argument]) if is_summable(argument, data_type) => Some((AggregateKind::Sum, params.args.clone())),
            ("avg", [argument]) if is_averageable(argument, data_type) => {
                Some((AggregateKind::Avg, params.args.clone()))
            }
            ("min", [argument]) if argument == data_type => Some((AggregateKind::Min, params.args.clone())),
            ("max", [argument]) if argument == data_type => Some((AggregateKind::Max, params.args.clone())),
            _ => None,
        };
        if let Some((kind, arguments)) = built_in {
            return Ok(Some(Call { kind, arguments, filter }));
        }
        if params.args.is_empty() {
            return Ok(None);
        }
        let arrow = plain_arrow(schema);
        let function =
            LoweredAggregateBuilder::new(expr, schema, &arrow, self.state.execution_props(), &Default::default())
                .build()?
                .aggregate;
        let kind = AggregateKind::Other(Box::new(PlannedAggregate::new(function, data_type.clone())));
        Ok(Some(Call { kind, arguments: params.args, filter }))
    }
}

fn is_summable(argument: &DataType, result: &DataType) -> bool {
    match result {
        DataType::Int64 | DataType::UInt64 => argument.is_integer(),
        DataType::Float64 => matches!(argument, DataType::Float32 | DataType::Float64),
        DataType::Decimal128(_, to) => matches!(argument, DataType::Decimal128(_, from) if from == to),
        _ => false,
    }
}

fn is_averageable(argument: &DataType, result: &DataType) -> bool {
    match result {
        DataType::Float64 => argument.is_integer() || matches!(argument, DataType::Float32 | DataType::Float64),
        DataType::Decimal128(_, to) => matches!(argument, DataType::Decimal128(_, from) if from <= to),
        _ => false,
    }
}
