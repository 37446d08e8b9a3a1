//! Files to statements.
//!
//! A file is cut at its semicolons by the parser's own tokenizer, and each piece is parsed by
//! itself: one bad statement hides no other.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::Statement;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};

use crate::diagnostic::{Diagnostic, Diagnostics, Place, SourceFile};

/// A statement and where it stands.
#[derive(Clone, Debug)]
pub struct ParsedStatement {
    /// What the parser made of it.
    pub statement: Statement,
    /// From its first token to its last.
    pub place: Place,
}

/// The statements of a file; mistakes go to `wrong`.
pub fn parse(file: &Arc<SourceFile>, wrong: &mut Diagnostics) -> Vec<ParsedStatement> {
    let dialect = GenericDialect {};
    let mut tokens = Vec::new();
    let mut is_cut_short = false;
    if let Err(error) = Tokenizer::new(&dialect, &file.text).tokenize_with_location_into_buf(&mut tokens) {
        is_cut_short = true;
        let place = Place::new(file, Span::new(error.location, error.location));
        wrong.push(Diagnostic::at(place, lower_first(&error.message)).help("what follows in this file was not read"));
    }
    let mut statements = Vec::new();
    let mut pieces: Vec<&[TokenWithSpan]> = tokens.split(|token| token.token == Token::SemiColon).collect();
    if is_cut_short {
        pieces.pop();
    }
    for tokens in pieces {
        let is_text = |token: &&TokenWithSpan| !matches!(token.token, Token::Whitespace(_) | Token::EOF);
        let (Some(first), Some(last)) = (tokens.iter().find(is_text), tokens.iter().rfind(is_text)) else { continue };
        let place = Place::new(file, Span::new(first.span.start, last.span.end));
        let mut parser = Parser::new(&dialect).with_tokens_with_locations(tokens.to_vec());
        match parser.parse_statement() {
            Ok(statement) => match parser.peek_token() {
                TokenWithSpan { token: Token::EOF, .. } => statements.push(ParsedStatement { statement, place }),
                extra => {
                    let message = format!("did not expect `{}` here", extra.token);
                    wrong.push(
                        Diagnostic::at(Place::new(file, extra.span), message)
                            .help("end the statement before it with `;`"),
                    );
                }
            },
            Err(error) => wrong.push(parse_error(&error, file, tokens, place)),
        }
    }
    statements
}

/// The parser puts the place of a mistake at the end of its message.
fn parse_error(error: &ParserError, file: &Arc<SourceFile>, tokens: &[TokenWithSpan], place: Place) -> Diagnostic {
    let message = match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => message.clone(),
        ParserError::RecursionLimitExceeded => {
            return Diagnostic::at(place, "the statement is nested too deeply")
                .help("name parts of it in WITH or CREATE VIEW");
        }
    };
    let Some((text, location)) = message.rsplit_once(" at Line: ") else {
        // The statement ended too early: point behind its last token.
        let end = tokens
            .iter()
            .rfind(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF))
            .map(|token| token.span.end);
        let place = end.map_or(place, |end| Place::new(file, Span::new(end, end)));
        return Diagnostic::at(
            place,
            lower_first(&message.trim_end_matches(", found: EOF").replace("Expected: ", "expected ")),
        )
        .help("the statement ends too early");
    };
    let numbers: Vec<u64> = location.split(", Column: ").filter_map(|number| number.parse().ok()).collect();
    let at = match numbers[..] {
        [line, column] => Location::new(line, column),
        _ => Location::new(place.line, place.column),
    };
    let span = tokens.iter().find(|token| token.span.start == at).map_or(Span::new(at, at), |token| token.span);
    Diagnostic::at(Place::new(file, span), lower_first(&text.replace("Expected: ", "expected ")))
}

/// The parser's messages begin like sentences; ours follow `error:`.
pub fn lower_first(text: &str) -> String {
    let first_word = text.split(' ').next().unwrap_or_default();
    let mut chars = text.chars();
    match chars.next() {
        // Names such as DataFusion and NULL keep their letters.
        Some(first) if !first_word.chars().skip(1).any(char::is_uppercase) => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}
