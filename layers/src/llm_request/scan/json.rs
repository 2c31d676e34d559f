//! JSON's grammar as a state machine over bytes, as strict as Go's `encoding/json`.

use std::ops::Range;

use smallvec::SmallVec;

use super::ScanError;
use super::utf8::Utf8;
use super::visit::{Kept, Kind, REPORTED_DEPTH, REPORTED_KEYS, Value, Visitor};

/// Limit of nested arrays and objects. Real requests are less deep, and deeper ones could exhaust
/// the stack of a recursive parser.
pub const MAX_DEPTH: u32 = 64;

/// UTF-8 is validated this far ahead, so that both passes find the bytes in the processor's
/// first-level cache.
const WINDOW: usize = 16 << 10;

/// The state: what may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    ElementOrEnd,
    KeyOrEnd,
    Key,
    Colon,
    CommaOrEnd,
    String {
        is_key: bool,
    },
    Escape {
        is_key: bool,
    },
    Hex {
        is_key: bool,
        left: u8,
    },
    Minus,
    Zero,
    Integer,
    Dot,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    /// Within a literal, after this many bytes.
    Literal {
        literal: Literal,
        come: u8,
    },
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Literal {
    Null,
    True,
    False,
}

impl Literal {
    fn text(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::True => "true",
            Self::False => "false",
        }
    }

    fn value(self) -> Value<'static> {
        match self {
            Self::Null => Value::Null,
            Self::True => Value::Bool(true),
            Self::False => Value::Bool(false),
        }
    }
}

/// The state machine. It reads one value and ignores what follows, as Ollama does.
#[derive(Debug)]
pub(super) struct Json {
    state: State,
    depth: u32,
    // One bit for each open container, innermost lowest; 1 means an object.
    stack: u64,
    utf8: Utf8,
    offset: u64,
    top: Option<Kind>,
    // The beginning of each reported value, by the depth of its container.
    begun: [u64; REPORTED_DEPTH as usize + 1],
    // Room for every key and for usual model names; longer ones are rare.
    kept: SmallVec<[u8; 128]>,
    keep: usize,
    is_cut: bool,
}

impl Json {
    pub(super) fn new() -> Self {
        Self {
            state: State::Value,
            depth: 0,
            stack: 0,
            utf8: Utf8::default(),
            offset: 0,
            top: None,
            begun: [0; REPORTED_DEPTH as usize + 1],
            kept: SmallVec::new(),
            keep: 0,
            is_cut: false,
        }
    }

    /// The type of the whole value, if it has begun.
    pub(super) fn top(&self) -> Option<Kind> {
        self.top
    }

    /// The number of bytes that were read.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads the next bytes.
    pub(super) fn feed(
        &mut self,
        piece: &[u8],
        visitor: &mut impl Visitor,
    ) -> Result<(), ScanError> {
        for window in piece.chunks(WINDOW) {
            if self.is_done() {
                return Ok(());
            }
            let valid = self.utf8.valid_prefix(window);
            self.scan(&window[..valid], visitor)?;
            if valid < window.len() && !self.is_done() {
                // Outside of a string, such a byte would also be wrong as part of a character.
                return Err(match self.state {
                    State::String { .. } => ScanError::InvalidUtf8,
                    _ => self.unexpected(window[valid]),
                });
            }
            self.offset += window.len() as u64;
        }
        Ok(())
    }

    /// Ends the input.
    pub(super) fn finish(&mut self, visitor: &mut impl Visitor) -> Result<(), ScanError> {
        if self.depth == 0 && self.is_whole_number() {
            self.end_number(0, visitor);
        }
        match (self.state, self.top) {
            (State::Done, _) => Ok(()),
            (_, None) => Err(ScanError::Empty),
            (_, Some(_)) => Err(ScanError::UnexpectedEnd),
        }
    }

    fn scan(&mut self, bytes: &[u8], visitor: &mut impl Visitor) -> Result<(), ScanError> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.state {
                State::String { is_key } => {
                    let plain = &bytes[at..];
                    let plain = &plain[..plain_prefix(plain)];
                    at += plain.len();
                    match bytes.get(at) {
                        // Most strings are in one piece, and need no copy.
                        Some(b'"') if self.has_kept_nothing() => {
                            self.end_string(is_key, Some(plain), at, visitor);
                        }
                        Some(b'"') => {
                            self.keep(plain);
                            self.end_string(is_key, None, at, visitor);
                        }
                        Some(b'\\') => {
                            self.keep(plain);
                            self.keep(b"\\");
                            self.state = State::Escape { is_key };
                        }
                        Some(&byte) => return Err(self.unexpected(byte)),
                        None => {
                            self.keep(plain);
                            break;
                        }
                    }
                }
                State::Literal { literal, come }
                    if bytes[at..].starts_with(&literal.text().as_bytes()[usize::from(come)..]) =>
                {
                    at += literal.text().len() - usize::from(come) - 1;
                    self.end_literal(literal, at, visitor);
                }
                State::Done => break,
                _ if self.is_whole_number() && number(self.state, byte).is_none() => {
                    self.end_number(at, visitor);
                    // The byte belongs to the next state.
                    continue;
                }
                _ => {
                    self.step(byte, at, visitor)?;
                    // Many writers put a space here.
                    let may_be_spaced = matches!(byte, b':' | b',');
                    at += usize::from(may_be_spaced && bytes.get(at + 1) == Some(&b' '));
                }
            }
            at += 1;
        }
        Ok(())
    }

    fn step(&mut self, byte: u8, at: usize, visitor: &mut impl Visitor) -> Result<(), ScanError> {
        use State::*;
        self.state = match (self.state, byte) {
            (
                Value | ElementOrEnd | KeyOrEnd | Key | Colon | CommaOrEnd,
                b' ' | b'\t' | b'\n' | b'\r',
            ) => return Ok(()),
            (ElementOrEnd, b']') | (KeyOrEnd, b'}') => return self.close(at, true, visitor),
            (Value | ElementOrEnd, _) => return self.begin_value(byte, at, visitor),
            (KeyOrEnd | Key, b'"') => {
                let reported = self.depth <= REPORTED_KEYS;
                self.start_keeping(if reported {
                    visitor.begin_key(self.depth)
                } else {
                    0
                });
                String { is_key: true }
            }
            (Colon, b':') => Value,
            (CommaOrEnd, b',') if self.is_in_object() => Key,
            (CommaOrEnd, b',') => Value,
            (CommaOrEnd, b'}') if self.is_in_object() => return self.close(at, false, visitor),
            (CommaOrEnd, b']') if !self.is_in_object() => return self.close(at, false, visitor),
            (Escape { is_key }, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.keep(&[byte]);
                String { is_key }
            }
            (Escape { is_key }, b'u') => {
                self.keep(b"u");
                Hex { is_key, left: 4 }
            }
            (Hex { is_key, left }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.keep(&[byte]);
                match left {
                    1 => String { is_key },
                    _ => Hex {
                        is_key,
                        left: left - 1,
                    },
                }
            }
            (Literal { literal, come }, _)
                if literal.text().as_bytes().get(usize::from(come)) == Some(&byte) =>
            {
                let come = come + 1;
                if usize::from(come) == literal.text().len() {
                    self.end_literal(literal, at, visitor);
                    return Ok(());
                }
                Literal { literal, come }
            }
            (state, byte) => {
                let next = number(state, byte).ok_or_else(|| self.unexpected(byte))?;
                self.keep(&[byte]);
                next
            }
        };
        Ok(())
    }

    fn begin_value(
        &mut self,
        byte: u8,
        at: usize,
        visitor: &mut impl Visitor,
    ) -> Result<(), ScanError> {
        let literal = |literal| State::Literal { literal, come: 1 };
        let (kind, state) = match byte {
            b'{' => (Kind::Object, State::KeyOrEnd),
            b'[' => (Kind::Array, State::ElementOrEnd),
            b'"' => (Kind::String, State::String { is_key: false }),
            b't' => (Kind::Bool, literal(Literal::True)),
            b'f' => (Kind::Bool, literal(Literal::False)),
            b'n' => (Kind::Null, literal(Literal::Null)),
            b'-' => (Kind::Number, State::Minus),
            b'0' => (Kind::Number, State::Zero),
            b'1'..=b'9' => (Kind::Number, State::Integer),
            _ => return Err(self.unexpected(byte)),
        };
        if self.depth == 0 {
            self.top = Some(kind);
        }
        let keep = if self.is_reported() {
            let begin = self.offset + at as u64;
            self.begun[self.depth as usize] = begin;
            visitor.begin_value(self.depth, begin)
        } else {
            0
        };
        self.start_keeping(keep);
        match kind {
            Kind::Object | Kind::Array => {
                if self.depth == MAX_DEPTH {
                    return Err(ScanError::TooDeep);
                }
                self.depth += 1;
                self.stack = self.stack << 1 | u64::from(kind == Kind::Object);
            }
            Kind::Number => self.keep(&[byte]),
            _ => {}
        }
        self.state = state;
        Ok(())
    }

    fn close(
        &mut self,
        at: usize,
        is_empty: bool,
        visitor: &mut impl Visitor,
    ) -> Result<(), ScanError> {
        let value = match self.is_in_object() {
            true => Value::Object { is_empty },
            false => Value::Array { is_empty },
        };
        self.depth -= 1;
        self.stack >>= 1;
        if self.is_reported() {
            visitor.value(self.depth, value, self.span_to(at + 1));
        }
        self.end_value();
        Ok(())
    }

    /// Reports a string: `whole`, or else the kept bytes.
    fn end_string(
        &mut self,
        is_key: bool,
        whole: Option<&[u8]>,
        at: usize,
        visitor: &mut impl Visitor,
    ) {
        let kept = match whole {
            Some(whole) => self.first_of(whole),
            None => self.kept(),
        };
        if is_key {
            if self.depth <= REPORTED_KEYS {
                visitor.key(self.depth, kept, self.offset + at as u64);
            }
            self.state = State::Colon;
        } else {
            if self.is_reported() {
                visitor.value(self.depth, Value::String(kept), self.span_to(at + 1));
            }
            self.end_value();
        }
    }

    fn end_number(&mut self, at: usize, visitor: &mut impl Visitor) {
        if self.is_reported() {
            visitor.value(self.depth, Value::Number(self.kept()), self.span_to(at));
        }
        self.end_value();
    }

    fn end_literal(&mut self, literal: Literal, at: usize, visitor: &mut impl Visitor) {
        if self.is_reported() {
            visitor.value(self.depth, literal.value(), self.span_to(at + 1));
        }
        self.end_value();
    }

    fn end_value(&mut self) {
        self.state = match self.depth {
            0 => State::Done,
            _ => State::CommaOrEnd,
        };
    }

    /// Whether a value at this place is reported to the visitor: a member of an object within the
    /// depth, or the whole value.
    fn is_reported(&self) -> bool {
        self.depth == 0 || self.depth <= REPORTED_DEPTH && self.is_in_object()
    }

    fn is_in_object(&self) -> bool {
        self.stack & 1 == 1
    }

    fn is_whole_number(&self) -> bool {
        use State::{ExponentDigits, Fraction, Integer, Zero};
        matches!(self.state, Zero | Integer | Fraction | ExponentDigits)
    }

    fn span_to(&self, at: usize) -> Range<u64> {
        self.begun[self.depth as usize]..self.offset + at as u64
    }

    fn start_keeping(&mut self, bytes: usize) {
        self.kept.clear();
        self.keep = bytes;
        self.is_cut = false;
    }

    fn keep(&mut self, bytes: &[u8]) {
        let fits = bytes.len().min(self.keep);
        if fits > 0 {
            self.kept.extend_from_slice(&bytes[..fits]);
            self.keep -= fits;
        }
        self.is_cut |= fits < bytes.len();
    }

    fn has_kept_nothing(&self) -> bool {
        self.kept.is_empty() && !self.is_cut
    }

    /// The part of a whole string that has to be kept.
    fn first_of<'a>(&self, whole: &'a [u8]) -> Kept<'a> {
        Kept {
            raw: &whole[..whole.len().min(self.keep)],
            is_cut: whole.len() > self.keep,
        }
    }

    fn kept(&self) -> Kept<'_> {
        Kept {
            raw: &self.kept,
            is_cut: self.is_cut,
        }
    }

    #[cold]
    fn unexpected(&self, byte: u8) -> ScanError {
        let place = match self.state {
            State::Value | State::ElementOrEnd => "looking for beginning of value".into(),
            State::KeyOrEnd | State::Key => "looking for beginning of object key string".into(),
            State::Colon => "after object key".into(),
            // Where a number may end, its value ends before the byte.
            State::CommaOrEnd
            | State::Zero
            | State::Integer
            | State::Fraction
            | State::ExponentDigits
                if self.is_in_object() =>
            {
                "after object key:value pair".into()
            }
            State::String { .. } => "in string literal".into(),
            State::Escape { .. } => "in string escape code".into(),
            State::Hex { .. } => r"in \u hexadecimal character escape".into(),
            State::Dot => "after decimal point in numeric literal".into(),
            State::Exponent | State::ExponentSign => "in exponent of numeric literal".into(),
            State::Literal { literal, come } => {
                let whole = literal.text();
                let next = char::from(whole.as_bytes()[usize::from(come)]);
                format!("in literal {whole} (expecting '{next}')").into()
            }
            State::Minus | State::Done => "in numeric literal".into(),
            _ => "after array element".into(),
        };
        ScanError::InvalidCharacter { byte, place }
    }
}

/// The next state inside a number.
fn number(state: State, byte: u8) -> Option<State> {
    use State::*;
    Some(match (state, byte) {
        (Minus, b'0') => Zero,
        (Minus, b'1'..=b'9') | (Integer, b'0'..=b'9') => Integer,
        (Zero | Integer, b'.') => Dot,
        (Dot | Fraction, b'0'..=b'9') => Fraction,
        (Zero | Integer | Fraction, b'e' | b'E') => Exponent,
        (Exponent, b'+' | b'-') => ExponentSign,
        (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => ExponentDigits,
        _ => return None,
    })
}

/// The number of leading bytes of a string that need no handling: up to a quote, a backslash or a
/// control character.
fn plain_prefix(bytes: &[u8]) -> usize {
    // Most strings are short; the others are long.
    let (start, rest) = bytes.split_at(bytes.len().min(SHORT));
    let mut plain = plain_words(start);
    if plain < start.len() {
        return plain;
    }
    plain += plain_blocks(rest);
    plain + plain_words(&bytes[plain..])
}

/// Bytes that are checked word by word before blocks are faster.
const SHORT: usize = 32;
const BLOCK: usize = 64;

/// [`plain_prefix`] by words.
fn plain_words(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    let specials = words.iter().map(|word| specials(u64::from_le_bytes(*word)));
    if let Some((at, specials)) = specials.enumerate().find(|(_, specials)| *specials != 0) {
        return at * 8 + specials.trailing_zeros() as usize / 8;
    }
    let special = rest.iter().position(|&byte| is_special(byte));
    bytes.len() - rest.len() + special.unwrap_or(rest.len())
}

/// A word whose lowest set bit is the highest bit of the first special byte, if there is one.
fn specials(word: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    // Sets the highest bit of each byte that is less than `bound`; the bits below the first such
    // byte are exact.
    let less_than = |word: u64, bound: u64| word.wrapping_sub(ONES * bound) & !word;
    let equal_to = |byte: u8| less_than(word ^ (ONES * u64::from(byte)), 1);
    (less_than(word, 0x20) | equal_to(b'"') | equal_to(b'\\')) & (ONES * 0x80)
}

/// The part of [`plain_prefix`] that consists of whole blocks. Without branches inside, the
/// compiler turns a block into a few vector instructions.
fn plain_blocks(bytes: &[u8]) -> usize {
    let (blocks, _) = bytes.as_chunks::<BLOCK>();
    let has_special = |block: &[u8; BLOCK]| {
        let found = |found, &byte| found | is_special(byte);
        block.iter().fold(false, found)
    };
    blocks
        .iter()
        .take_while(|block| !has_special(block))
        .count()
        * BLOCK
}

fn is_special(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}
