//! XML as UPnP needs it: elements with text, within limits, without document types and entities of their own.

use quick_xml::NsReader;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::name::ResolveResult;
use thiserror::Error;

/// An element, its text and what is inside it. Attributes, comments and white space between elements are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Element {
    /// The name without its prefix.
    pub name: String,
    /// What the prefix is declared for; none if it is not declared.
    pub namespace: Option<String>,
    /// The text directly inside, without white space around it.
    pub text: String,
    pub children: Vec<Element>,
}

impl Element {
    /// Reads a document.
    ///
    /// # Errors
    ///
    /// What is not well-formed, not UTF-8, has a document type, a processing instruction or an entity of its own, or
    /// exceeds a limit.
    pub fn parse(document: &[u8], limits: Limits) -> Result<Self, XmlError> {
        if document.len() > limits.bytes {
            return Err(XmlError::TooLarge);
        }
        let document = str::from_utf8(document).map_err(|_| XmlError::NotText)?;
        let document = document.strip_prefix('\u{feff}').unwrap_or(document);
        Tree::new(limits).read(document)
    }

    /// The first child of a name.
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of the first child of a name.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str())
    }
}

/// What a document may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub bytes: usize,
    /// Elements inside one another.
    pub depth: usize,
    pub elements: usize,
    /// Attributes of one element.
    pub attributes: usize,
}

impl Limits {
    /// For requests: an envelope, a body, an action and its arguments.
    pub const REQUEST: Self = Self {
        bytes: 16 * 1024,
        depth: 8,
        elements: 64,
        attributes: 16,
    };
    /// For what other gateways describe: three devices inside one another, each with lists.
    pub const DOCUMENT: Self = Self {
        bytes: 128 * 1024,
        depth: 16,
        elements: 4096,
        attributes: 32,
    };
}

/// Why a document is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum XmlError {
    #[error("the document is larger than allowed")]
    TooLarge,
    #[error("the document is not UTF-8 text")]
    NotText,
    #[error("the document has a document type, a processing instruction or an entity of its own")]
    Forbidden,
    #[error("the document nests or repeats elements or attributes more than allowed")]
    TooMuch,
    #[error("the document is not well-formed")]
    Malformed,
}

/// Text as it may stand inside an element or an attribute. Characters that XML does not know are left out.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\r' => escaped.push_str("&#13;"),
            character if is_legal(character) => escaped.push(character),
            _ => {}
        }
    }
    escaped
}

/// XML 1.0 §2.2.
fn is_legal(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// A document while it is read.
struct Tree {
    limits: Limits,
    open: Vec<Element>,
    elements: usize,
    root: Option<Element>,
}

impl Tree {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            open: Vec::new(),
            elements: 0,
            root: None,
        }
    }

    fn read(mut self, document: &str) -> Result<Element, XmlError> {
        let mut reader = NsReader::from_str(document);
        reader.config_mut().enable_all_checks(true);
        reader
            .resolver_mut()
            .set_max_namespace_bindings(self.limits.attributes * self.limits.depth);
        let mut is_first = true;
        loop {
            let (namespace, event) = reader
                .read_resolved_event()
                .map_err(|_| XmlError::Malformed)?;
            match event {
                Event::Start(start) => self.open(&namespace, &start)?,
                Event::Empty(start) => {
                    self.open(&namespace, &start)?;
                    self.close()?;
                }
                Event::End(_) => self.close()?,
                Event::Text(text) => self.add(&text.xml10_content())?,
                Event::CData(text) => {
                    if self.open.is_empty() {
                        return Err(XmlError::Malformed);
                    }
                    self.add(&text.xml10_content())?;
                }
                Event::GeneralRef(reference) => {
                    if self.open.is_empty() {
                        return Err(XmlError::Malformed);
                    }
                    let character = resolve(&reference)?;
                    self.add(character.encode_utf8(&mut [0; 4]))?;
                }
                Event::Decl(declaration) => {
                    if !is_first {
                        return Err(XmlError::Malformed);
                    }
                    let encoding = declaration.encoding().transpose();
                    let encoding = encoding.map_err(|_| XmlError::Malformed)?;
                    if encoding.is_some_and(|encoding| !is_unicode(&encoding)) {
                        return Err(XmlError::NotText);
                    }
                }
                Event::Comment(_) => {}
                Event::PI(_) | Event::DocType(_) => return Err(XmlError::Forbidden),
                Event::Eof => break,
            }
            is_first = false;
        }
        if !self.open.is_empty() {
            return Err(XmlError::Malformed);
        }
        self.root.ok_or(XmlError::Malformed)
    }

    fn open(
        &mut self,
        namespace: &ResolveResult<'_>,
        start: &BytesStart<'_>,
    ) -> Result<(), XmlError> {
        self.elements += 1;
        if self.elements > self.limits.elements || self.open.len() >= self.limits.depth {
            return Err(XmlError::TooMuch);
        }
        if self.open.is_empty() && self.root.is_some() {
            return Err(XmlError::Malformed);
        }
        for (number, attribute) in start.attributes().enumerate() {
            if number >= self.limits.attributes {
                return Err(XmlError::TooMuch);
            }
            attribute.map_err(|_| XmlError::Malformed)?;
        }
        let namespace = match namespace {
            ResolveResult::Bound(namespace) => Some(namespace.0.to_owned()),
            ResolveResult::Unbound | ResolveResult::Unknown(_) => None,
        };
        let name = start.local_name().into_inner().to_owned();
        if name.is_empty() {
            return Err(XmlError::Malformed);
        }
        self.open.push(Element {
            name,
            namespace,
            ..Element::default()
        });
        Ok(())
    }

    fn close(&mut self) -> Result<(), XmlError> {
        let mut element = self.open.pop().ok_or(XmlError::Malformed)?;
        let trimmed = element.text.trim();
        if trimmed.len() != element.text.len() {
            element.text = trimmed.to_owned();
        }
        match self.open.last_mut() {
            Some(parent) => parent.children.push(element),
            None => self.root = Some(element),
        }
        Ok(())
    }

    fn add(&mut self, text: &str) -> Result<(), XmlError> {
        if !text.chars().all(is_legal) {
            return Err(XmlError::Malformed);
        }
        match self.open.last_mut() {
            Some(element) => {
                element.text.push_str(text);
                Ok(())
            }
            None if text.trim().is_empty() => Ok(()),
            None => Err(XmlError::Malformed),
        }
    }
}

fn resolve(reference: &BytesRef<'_>) -> Result<char, XmlError> {
    match &**reference {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        _ => match reference.resolve_char_ref() {
            Ok(Some(character)) if is_legal(character) => Ok(character),
            Ok(Some(_)) | Err(_) => Err(XmlError::Malformed),
            Ok(None) => Err(XmlError::Forbidden),
        },
    }
}

/// The bytes have been found to be UTF-8; ASCII is a part of it.
fn is_unicode(encoding: &str) -> bool {
    ["utf-8", "utf8", "us-ascii"]
        .iter()
        .any(|name| encoding.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop, prop_assert_eq, proptest};

    use super::{Element, Limits, XmlError, escape, is_legal};

    fn parse(document: &str) -> Result<Element, XmlError> {
        Element::parse(document.as_bytes(), Limits::REQUEST)
    }

    #[test]
    fn names_namespaces_and_text() {
        let root = parse(concat!(
            "<?xml version=\"1.0\"?>\r\n<s:a xmlns:s=\"urn:s\" x='1'><!-- no --><b> x &amp; &#x41;</b>",
            "<c><![CDATA[<&>]]></c><u:d/></s:a>\n"
        ))
        .unwrap();
        assert_eq!(root.name, "a");
        assert_eq!(root.namespace.as_deref(), Some("urn:s"));
        assert_eq!(root.text_of("b"), Some("x & A"));
        assert_eq!(root.text_of("c"), Some("<&>"));
        assert_eq!(root.child("d").unwrap().namespace, None);
        assert_eq!(root.children.len(), 3);
    }

    #[test]
    fn nothing_beyond_the_document_itself() {
        let bomb = "<!DOCTYPE a [<!ENTITY b \"bbbb\"><!ENTITY c \"&b;&b;\">]><a>&c;</a>";
        assert_eq!(parse(bomb), Err(XmlError::Forbidden));
        assert_eq!(parse("<a>&b;</a>"), Err(XmlError::Forbidden));
        assert_eq!(parse("<?php x?><a/>"), Err(XmlError::Forbidden));
        assert_eq!(
            parse("<!DOCTYPE a SYSTEM \"file:///etc/passwd\"><a/>"),
            Err(XmlError::Forbidden)
        );
    }

    #[test]
    fn limits_hold() {
        let nested = |depth: usize| format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
        assert!(parse(&nested(8)).is_ok());
        assert_eq!(parse(&nested(9)), Err(XmlError::TooMuch));
        assert_eq!(parse(&nested(2000)), Err(XmlError::TooMuch));
        let siblings = |count: usize| format!("<a>{}</a>", "<b/>".repeat(count));
        assert!(parse(&siblings(63)).is_ok());
        assert_eq!(parse(&siblings(64)), Err(XmlError::TooMuch));
        let attributes = |count: usize| {
            let list: String = (0..count).map(|number| format!(" a{number}=''")).collect();
            format!("<a{list}/>")
        };
        assert!(parse(&attributes(16)).is_ok());
        assert_eq!(parse(&attributes(17)), Err(XmlError::TooMuch));
        let long = format!("<a>{}</a>", "x".repeat(16 * 1024));
        assert_eq!(parse(&long), Err(XmlError::TooLarge));
    }

    #[test]
    fn what_is_not_well_formed() {
        for document in [
            "",
            " ",
            "x",
            "<a>",
            "</a>",
            "<a></b>",
            "<a/><b/>",
            "<a/>x",
            "<a>&</a>",
            "<a>&#0;</a>",
            "<a>&#1;</a>",
            "<a>\u{1}</a>",
            "<a x=1/>",
            "<a x='1' x='2'/>",
            "<a",
            "<>",
            "<a/><?xml version='1.0'?>",
        ] {
            assert_eq!(parse(document), Err(XmlError::Malformed), "{document:?}");
        }
        assert_eq!(
            Element::parse(b"<a>\xff</a>", Limits::REQUEST),
            Err(XmlError::NotText)
        );
    }

    fn elements() -> impl Strategy<Value = Element> {
        let text = "[ -~\t\u{80}-\u{2ff}]{0,12}".prop_map(|text| text.trim().to_owned());
        let leaf = ("[A-Za-z_][A-Za-z0-9_.-]{0,8}", text).prop_map(|(name, text)| Element {
            name,
            text,
            ..Element::default()
        });
        leaf.prop_recursive(5, 32, 4, |inner| {
            (
                "[A-Za-z_][A-Za-z0-9]{0,8}",
                prop::collection::vec(inner, 0..4),
            )
                .prop_map(|(name, children)| Element {
                    name,
                    children,
                    ..Element::default()
                })
        })
    }

    fn write(element: &Element) -> String {
        let inside: String = element.children.iter().map(write).collect();
        let Element { name, text, .. } = element;
        format!("<{name}>{}{inside}</{name}>", escape(text))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(element in elements()) {
            prop_assert_eq!(parse(&write(&element)), Ok(element));
        }

        #[test]
        fn no_bytes_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Element::parse(&bytes, Limits::REQUEST);
        }

        #[test]
        fn nothing_like_xml_breaks_the_reader(document in "[<>/a-c&;#!?\\[\\]x'\"= 0-9-]{0,120}") {
            if let Ok(element) = parse(&document) {
                prop_assert_eq!(parse(&write(&element)), Ok(strip(element)));
            }
        }

        #[test]
        fn escaped_text_is_text(text in any::<String>()) {
            let root = parse(&format!("<a>{}</a>", escape(&text))).unwrap();
            let legal: String = text.chars().filter(|character| is_legal(*character)).collect();
            prop_assert_eq!(root.text, legal.trim());
        }
    }

    fn strip(mut element: Element) -> Element {
        element.namespace = None;
        element.children = element.children.into_iter().map(strip).collect();
        element
    }
}
