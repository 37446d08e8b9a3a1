//! What is wrong, where, and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::sql::sqlparser::tokenizer::{Location, Span};

/// A file of the project, kept for showing its lines.
#[derive(Debug)]
pub struct SourceFile {
    /// Relative to the project's folder.
    pub path: PathBuf,
    /// Its content.
    pub text: String,
}

/// A place in a file. Lines and columns count from 1; a column is a character.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file.
    pub file: Arc<SourceFile>,
    /// First line.
    pub line: u64,
    /// First column.
    pub column: u64,
    /// Characters to underline on that line; at least 1.
    pub length: u64,
}

impl Place {
    /// A place from the parser's span; an empty span is the start of the file.
    #[must_use]
    pub fn new(file: &Arc<SourceFile>, span: Span) -> Place {
        let Location { line, column } = span.start;
        let length = if span.end.line == line {
            span.end.column.saturating_sub(column)
        } else {
            rest_of_line(file, line, column)
        };
        Place { file: Arc::clone(file), line: line.max(1), column: column.max(1), length: length.max(1) }
    }
}

fn rest_of_line(file: &SourceFile, line: u64, column: u64) -> u64 {
    let line = file.text.lines().nth(usize::try_from(line.saturating_sub(1)).unwrap_or(0)).unwrap_or("");
    (line.trim_end().chars().count() as u64 + 1).saturating_sub(column)
}

/// One mistake, or something that is probably not meant.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// A project can run in spite of it.
    pub is_warning: bool,
    /// What is wrong.
    pub message: String,
    /// Where; `None` when it is about the folder.
    pub place: Option<Place>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A mistake at a place.
    pub fn at(place: Place, message: impl Into<String>) -> Diagnostic {
        Diagnostic { is_warning: false, message: message.into(), place: Some(place), help: None }
    }

    /// A mistake of the project as a whole.
    pub fn of_project(message: impl Into<String>) -> Diagnostic {
        Diagnostic { is_warning: false, message: message.into(), place: None, help: None }
    }

    /// Something at a place that is probably not meant.
    pub fn warning(place: Place, message: impl Into<String>) -> Diagnostic {
        Diagnostic { is_warning: true, ..Diagnostic::at(place, message) }
    }

    /// Adds the remedy.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", if self.is_warning { "warning" } else { "error" }, self.message)?;
        if let Some(place) = &self.place {
            let Place { file, line, column, length } = place;
            let number = line.to_string();
            let gutter = " ".repeat(number.len());
            writeln!(f, "{gutter}--> {}:{line}:{column}", show_path(&file.path))?;
            if let Some(text) = file.text.lines().nth(usize::try_from(line - 1).unwrap_or(0)) {
                // Tabs before the mark are kept so that it stands under the same place.
                let before: String = text
                    .chars()
                    .take(usize::try_from(column - 1).unwrap_or(0))
                    .map(|c| if c == '\t' { '\t' } else { ' ' })
                    .collect();
                let mark = "^".repeat(usize::try_from(*length).unwrap_or(1));
                writeln!(f, "{gutter} |\n{number} | {text}\n{gutter} | {before}{mark}")?;
            }
        }
        if let Some(help) = &self.help {
            writeln!(f, "  = help: {help}")?;
        }
        Ok(())
    }
}

fn show_path(path: &Path) -> std::path::Display<'_> {
    path.display()
}

/// How a message about a variable begins that is not set.
pub const UNSET: &str = "the environment variable ";

/// Every mistake found.
#[derive(Debug, Default)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order in which a reader of the files meets them. A variable that is not set is one mistake, wherever it
    /// is used.
    #[must_use]
    pub fn sorted(mut self) -> Diagnostics {
        self.0.sort_by_key(|d| d.place.as_ref().map(|place| (place.file.path.clone(), place.line, place.column)));
        let mut once: Vec<(Diagnostic, usize)> = Vec::with_capacity(self.0.len());
        for diagnostic in self.0 {
            let is_same = |(known, _): &&mut (Diagnostic, usize)| known.message == diagnostic.message;
            match once.iter_mut().find(is_same).filter(|_| diagnostic.message.starts_with(UNSET)) {
                Some((_, more)) => *more += 1,
                None => once.push((diagnostic, 0)),
            }
        }
        let said = once.into_iter().map(|(mut diagnostic, more)| {
            if more > 0 {
                let times = if more == 1 { "once".to_owned() } else { format!("{more} times") };
                diagnostic.message.push_str(&format!("; it is used {times} more"));
            }
            diagnostic
        });
        Diagnostics(said.collect())
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.0 {
            writeln!(f, "{diagnostic}")?;
        }
        match self.0.len() {
            1 => f.write_str("1 mistake"),
            n => write!(f, "{n} mistakes"),
        }
    }
}

impl std::error::Error for Diagnostics {}

/// The candidate most like `name`, for "did you mean".
#[must_use]
pub fn most_like<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|&(distance, candidate)| distance <= candidate.len().max(name.len()).div_ceil(3))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, a row at a time.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
