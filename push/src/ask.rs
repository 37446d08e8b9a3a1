//! What a client asks of a projection, as far as it may see it: of the socket and of REST alike.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use filter::Predicate;

use crate::hub::{Hub, Projection, ProjectionId};
use crate::protocol::{Refusal, Subscribe, shorten};
use crate::session::SessionLimits;
use crate::view::ViewSpec;
use crate::viewer::Viewer;
use crate::window::Window;

/// The largest window.
pub const LIMIT_MAX: u64 = 10_000;

/// What a client asks for, as far as it may see it, and what its own filter weighs.
#[derive(Debug)]
pub struct Seen {
    /// The view.
    pub spec: ViewSpec,
    /// What its own filter weighs, in comparisons of a number.
    pub weight: usize,
}

/// The view that a client asks for, as far as it may see it.
///
/// # Errors
/// With what is wrong with what it asks, or that it may see nothing of the projection.
pub fn view_spec(
    projection: ProjectionId,
    info: &Projection,
    asked: &Subscribe,
    viewer: &Viewer,
) -> Result<Seen, Refusal> {
    let Some(sight) = viewer.sight(info) else { return Err(viewer.nothing_of(info)) };
    let find = |name: &str| {
        // A column that may not be seen is one that is not there.
        info.schema.index_of(name).ok().filter(|column| sight.columns.contains(column)).ok_or_else(|| {
            let names: Vec<&str> = sight.columns.iter().map(|&i| info.schema.field(i).name().as_str()).collect();
            let (name, names) = (shorten(name), shorten(&names.join(", ")));
            Refusal::new("bad_request", format!("`{}` has no column `{name}`; it has {names}", info.name))
        })
    };
    let predicate = match &asked.filter {
        None => Predicate::all(),
        Some(filter) => Predicate::parse(filter, &info.schema, &|column| sight.columns.contains(&column))
            .map_err(|error| Refusal::new("bad_filter", format!("{}: {}", error.path, error.message)))?,
    };
    let weight = predicate.weight();
    let predicate = predicate.and(&sight.rows);
    let mut columns: BTreeSet<usize> = match &asked.columns {
        None => sight.columns.clone(),
        Some(names) if names.is_empty() => return Err(Refusal::new("bad_request", "`columns` names no column")),
        Some(names) => names.iter().map(|name| find(name)).collect::<Result<_, _>>()?,
    };
    columns.extend(info.key.iter().flatten());
    let window = match (asked.limit, &asked.order) {
        (None, None) => None,
        (None, Some(_)) => {
            let message = "`order` is for a `limit`: without one all rows are sent, and sorting is the client's";
            return Err(Refusal::new("bad_request", message));
        }
        (Some(limit), order) => {
            if limit == 0 || limit > LIMIT_MAX {
                return Err(Refusal::new("bad_request", format!("`limit` is 1 to {LIMIT_MAX}")));
            }
            let order = match order {
                None => info.order.iter().filter(|(column, _)| sight.columns.contains(column)).copied().collect(),
                Some(order) => {
                    order.iter().map(|by| Ok((find(&by.column)?, by.descending))).collect::<Result<_, Refusal>>()?
                }
            };
            Some(Window { order, limit: usize::try_from(limit).unwrap_or(usize::MAX) })
        }
    };
    let spec = ViewSpec { projection, predicate, columns: columns.into_iter().collect(), window };
    Ok(Seen { spec, weight })
}

/// The rows of all clients' windows have a bound; those that are the same count once.
///
/// # Errors
/// `busy`, when this one has no room.
pub fn has_window_room(hub: &Hub, limits: &SessionLimits, spec: &ViewSpec) -> Result<(), Refusal> {
    let Some(window) = &spec.window else { return Ok(()) };
    if !hub.has_view(spec) && hub.window_rows() + window.limit > limits.window_rows_max {
        return Err(Refusal::busy("the windows of all clients have as many rows as they may have"));
    }
    Ok(())
}

/// By which a client's view is known again, as long as the server runs.
#[must_use]
pub fn fingerprint(spec: &ViewSpec) -> String {
    let mut hasher = DefaultHasher::new();
    spec.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
