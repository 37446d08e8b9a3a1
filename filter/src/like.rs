//! Patterns of LIKE and ILIKE, as Postgres has them.
//!
//! `%` stands for any text, `_` for one character, and a backslash takes the meaning from what follows. A pattern
//! is cut at its `%`s into segments. Each segment has a fixed number of characters, so taking the leftmost place
//! for each is right whenever any choice of places is: no backtracking, and no regular expression.

/// A pattern, ready to be matched. Patterns that match the same texts in the obvious ways (`%%` and `%`, `%_` and
/// `_%`, `\a` and `a`) are equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Pattern {
    /// ILIKE: texts are matched in lower case, as the pattern's own text is.
    is_insensitive: bool,
    /// What stands before, between and after the `%`s; one segment when there are none.
    segments: Vec<Segment>,
}

/// Text and single wildcards, in turn: a run of texts never touches another.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Segment(Vec<Token>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Token {
    /// This many characters, whichever.
    Any(usize),
    Text(String),
}

impl Pattern {
    /// # Errors
    /// When the pattern ends in a lone backslash. Postgres says so only for texts that get that far; here it is
    /// never a pattern.
    pub(crate) fn new(pattern: &str, is_insensitive: bool) -> Result<Pattern, &'static str> {
        let mut segments = vec![Segment::default()];
        let mut chars = pattern.chars();
        while let Some(next) = chars.next() {
            let (token, is_wild) = match next {
                '\\' => (chars.next().ok_or("a pattern can't end in a lone backslash: write \\\\ for one")?, false),
                wild => (wild, true),
            };
            let segment = segments.last_mut().expect("there is one from the start");
            match token {
                '%' if is_wild => segments.push(Segment::default()),
                '_' if is_wild => segment.push_any(),
                literal => segment.push_char(if is_insensitive { lower(literal) } else { literal }),
            }
        }
        Ok(Pattern { is_insensitive, segments: settled(segments) })
    }

    /// The text, when that is all that the pattern matches.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match self.segments.as_slice() {
            [Segment(tokens)] if !self.is_insensitive => match tokens.as_slice() {
                [] => Some(""),
                [Token::Text(text)] => Some(text),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether every text matches.
    pub(crate) fn is_any(&self) -> bool {
        self.segments.len() > 1 && self.segments.iter().all(|segment| segment.0.is_empty())
    }

    /// Whether `text` matches. `lowered` is room for its lower case.
    pub(crate) fn matches(&self, text: &str, lowered: &mut String) -> bool {
        if !self.is_insensitive {
            return self.matches_folded(text);
        }
        lowered.clear();
        lowered.extend(text.chars().map(lower));
        self.matches_folded(lowered)
    }

    fn matches_folded(&self, text: &str) -> bool {
        let [first, between @ .., last] = self.segments.as_slice() else {
            return self.segments[0].matches_at(text) == Some(text.len());
        };
        let Some(mut at) = first.matches_at(text) else { return false };
        for segment in between {
            let Some(end) = segment.find(&text[at..]) else { return false };
            at += end;
        }
        last.matches_end(&text[at..])
    }

    /// What looking for it in a text costs, about, in comparisons of a number: a run of text is looked for
    /// once, and wildcards between two runs are tried at every place.
    pub(crate) fn weight(&self) -> usize {
        let segment = |Segment(tokens): &Segment| match tokens.len() {
            runs @ (0 | 1) => 4 * runs,
            mixed => 16 * mixed,
        };
        let weight = self.segments.iter().map(segment).sum::<usize>().max(4);
        if self.is_insensitive { 2 * weight } else { weight }
    }

    /// Bytes on the heap, about.
    pub(crate) fn bytes(&self) -> usize {
        let token = |token: &Token| size_of::<Token>() + if let Token::Text(text) = token { text.len() } else { 0 };
        self.segments.iter().map(|it| size_of::<Segment>() + it.0.iter().map(token).sum::<usize>()).sum()
    }

    /// Tells the pattern apart from every other, in bytes that stay the same.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let mut number = |number: usize| out.extend_from_slice(&(number as u64).to_le_bytes());
        number(usize::from(self.is_insensitive));
        number(self.segments.len());
        for Segment(tokens) in &self.segments {
            out.extend_from_slice(&(tokens.len() as u64).to_le_bytes());
            for token in tokens {
                let (kind, length, text) = match token {
                    Token::Any(count) => (0, *count, ""),
                    Token::Text(text) => (1, text.len(), text.as_str()),
                };
                out.push(kind);
                out.extend_from_slice(&(length as u64).to_le_bytes());
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
}

impl Segment {
    fn push_any(&mut self) {
        if let Some(Token::Any(count)) = self.0.last_mut() { *count += 1 } else { self.0.push(Token::Any(1)) }
    }

    fn push_char(&mut self, next: char) {
        if let Some(Token::Text(text)) = self.0.last_mut() {
            text.push(next);
        } else {
            self.0.push(Token::Text(next.into()));
        }
    }

    /// Where the segment ends when it begins where `text` does.
    fn matches_at(&self, text: &str) -> Option<usize> {
        let mut rest = text;
        for token in &self.0 {
            rest = match token {
                Token::Any(count) => {
                    let mut chars = rest.chars();
                    chars.nth(count - 1)?;
                    chars.as_str()
                }
                Token::Text(expected) => rest.strip_prefix(expected.as_str())?,
            };
        }
        Some(text.len() - rest.len())
    }

    /// Where the leftmost occurrence ends.
    fn find(&self, text: &str) -> Option<usize> {
        if let [Token::Text(needle)] = self.0.as_slice() {
            return text.find(needle.as_str()).map(|at| at + needle.len());
        }
        let starts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
        starts.into_iter().find_map(|at| self.matches_at(&text[at..]).map(|length| at + length))
    }

    fn matches_end(&self, text: &str) -> bool {
        let length: usize = self.0.iter().map(|it| if let Token::Text(it) = it { it.chars().count() } else { 0 }).sum();
        let length = length + self.0.iter().map(|it| if let Token::Any(it) = it { *it } else { 0 }).sum::<usize>();
        let start = match length {
            0 => Some(text.len()),
            length => text.char_indices().nth_back(length - 1).map(|(at, _)| at),
        };
        start.is_some_and(|start| self.matches_at(&text[start..]).is_some())
    }
}

/// Segments that hold nothing between two `%`s are dropped, and single wildcards move to the left of a `%`: it
/// takes any text on either side of them.
fn settled(segments: Vec<Segment>) -> Vec<Segment> {
    let last = segments.len() - 1;
    let mut settled: Vec<Segment> = Vec::with_capacity(segments.len());
    for (i, Segment(mut tokens)) in segments.into_iter().enumerate() {
        if let (Some(before), Some(Token::Any(count))) = (settled.last_mut(), tokens.first()) {
            (0..*count).for_each(|_| before.push_any());
            tokens.remove(0);
        }
        if i == 0 || i == last || !tokens.is_empty() {
            settled.push(Segment(tokens));
        }
    }
    settled
}

/// One character to one character, as Postgres does it with the libraries of most systems; what Unicode maps to
/// several characters becomes the first of them.
fn lower(c: char) -> char {
    c.to_lowercase().next().unwrap_or(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each answer is Postgres 15's.
    #[test]
    fn patterns_match_as_in_postgres() {
        for (text, pattern, expected) in [
            ("open", "open", true),
            ("open", "OPEN", false),
            ("open", "op", false),
            ("", "", true),
            ("", "%", true),
            ("", "_", false),
            ("a", "_", true),
            ("é", "_", true),
            ("e\u{301}", "_", false),
            ("ab", "_", false),
            ("abc", "a%", true),
            ("abc", "%c", true),
            ("abc", "%b%", true),
            ("abc", "%d%", false),
            ("abc", "a%%c", true),
            ("abc", "a_%c", true),
            ("ac", "a_%c", false),
            ("ac", "a%_c", false),
            ("abcabc", "%bc", true),
            ("abcabd", "%bc", false),
            ("aab", "%ab", true),
            ("aaab", "a%a_", true),
            ("ab", "ab%ab", false),
            ("abab", "ab%ab", true),
            ("aba", "ab%ba", false),
            ("mississippi", "%iss%ip%", true),
            ("baaa", "%aa%aa%", false),
            ("baaaa", "%aa%aa%", true),
            ("mississippi", "%iss%iss%iss%", false),
            ("mississippi", "m%i_p%i", true),
            ("xayb", "%a_b%", true),
            ("xayab", "%a_b", false),
            ("a%b", "a\\%b", true),
            ("axb", "a\\%b", false),
            ("a_b", "a\\_b", true),
            ("axb", "a\\_b", false),
            ("a\\b", "a\\\\b", true),
            ("ab", "a\\b", true),
            ("a\nb", "a_b", true),
            ("a\nb", "a%", true),
            ("50%", "%\\%", true),
            ("[a]", "[a]", true),
            ("日本語", "日_語", true),
            ("日本語", "%本%", true),
            ("日本語", "__", false),
            ("日本語", "%___", true),
            ("日本語", "%____", false),
        ] {
            let matches = Pattern::new(pattern, false).unwrap().matches(text, &mut String::new());
            assert_eq!(matches, expected, "{text:?} LIKE {pattern:?}");
        }
    }

    /// Each answer is Postgres 15's, in a database with the locale C.UTF-8.
    #[test]
    fn upper_and_lower_case_are_one_to_ilike() {
        for (text, pattern, expected) in [
            ("Open", "oPEN", true),
            ("ÄRGER", "är%", true),
            ("straße", "STRASSE", false),
            ("straße", "STRAßE", true),
            ("ΣΊΣΥΦΟΣ", "σίσυφοσ", true),
            ("a%B", "A\\%b", true),
            ("ab", "A\\B", true),
            ("K", "\u{212a}", true),
        ] {
            let matches = Pattern::new(pattern, true).unwrap().matches(text, &mut String::new());
            assert_eq!(matches, expected, "{text:?} ILIKE {pattern:?}");
        }
    }

    /// A pattern costs its segments, what stands in them, and their text.
    #[test]
    fn bytes_are_those_of_the_text() {
        let (segment, token) = (size_of::<Segment>(), size_of::<Token>());
        for (pattern, expected) in [
            ("", segment),
            ("seventeen letters", segment + token + 17),
            ("four_%", 2 * segment + 2 * token + 4),
            ("%a%é%", 4 * segment + 2 * token + 3),
        ] {
            assert_eq!(Pattern::new(pattern, false).unwrap().bytes(), expected, "{pattern}");
        }
    }

    #[test]
    fn a_lone_backslash_at_the_end_is_no_pattern() {
        assert!(Pattern::new("a\\", false).is_err());
        assert!(Pattern::new("a\\\\\\", true).is_err());
        assert!(Pattern::new("a\\\\", true).is_ok());
    }

    #[test]
    fn patterns_of_one_meaning_are_equal() {
        let pattern = |text| Pattern::new(text, false).unwrap();
        for (one, other) in [("a%%b", "a%b"), ("%_", "_%"), ("%_%_%", "__%"), ("a%_b", "a_%b"), ("\\a\\b", "ab")] {
            assert_eq!(pattern(one), pattern(other), "{one} {other}");
        }
        for (one, other) in [("a%b", "ab"), ("_", "__"), ("\\%", "%"), ("a", "%a"), ("a_", "_a")] {
            assert_ne!(pattern(one), pattern(other), "{one} {other}");
        }
        assert!(pattern("%%").is_any() && !pattern("_%").is_any() && !pattern("").is_any());
        assert_eq!(pattern("a\\%").as_text(), Some("a%"));
        assert_eq!(pattern("a%").as_text(), None);
        assert_eq!(Pattern::new("a", true).unwrap().as_text(), None);
    }
}
