//! The parsers of grammars, compared with TextWorld's parser on the same texts.

use crate::env::alfworld::grammar::query;
use crate::env::alfworld::grammar::query::RawAtom;
use crate::env::alfworld::grammar::symbols;
use crate::env::alfworld::grammar::symbols::RawBody::{self, Value};
use crate::env::alfworld::grammar::symbols::RawEach;
use crate::env::alfworld::grammar::symbols::RawSymbol::{self, Each, List, Literal, NonTerminal};
use crate::env::alfworld::grammar::value;
use crate::env::alfworld::grammar::value::{Attribute, Term};

fn each<'a>(body: RawBody<'a>, query: Option<&'a str>) -> RawEach<'a> {
    RawEach { body, query }
}

fn value_of(text: &str) -> RawSymbol<'_> {
    Each(each(Value(text), None))
}

#[test]
fn alfworld_right_hand_sides_are_read_as_textworld_reads_them() {
    let expected: Vec<(&str, Vec<RawSymbol>)> = vec![
        ("", vec![]),
        ("  a b ", vec![Literal("a b ")]),
        ("\n a\n#b# c", vec![Literal("a\n"), NonTerminal("b"), Literal(" c")]),
        ("#a#\n\n#b#", vec![NonTerminal("a"), Literal("\n\n"), NonTerminal("b")]),
        ("{o.name} x}", vec![value_of("o.name"), Literal(" x")]),
        ("{o.name}\t\ty", vec![value_of("o.name"), Literal("y")]),
        (
            "a\t{ o | p(o:t)  }z",
            vec![Literal("a\t"), Each(each(Value(" o "), Some("p(o:t)  "))), Literal("z")],
        ),
        ("//foo\nbar", vec![Literal("bar")]),
        ("x//foo", vec![Literal("x//foo")]),
        ("\n//c\nd", vec![Literal("d")]),
        (" //a\nb", vec![Literal("//a\nb")]),
        ("\t//a\nb", vec![Literal("//a\nb")]),
        ("\n//a\n//b\n\n  c", vec![Literal("c")]),
        ("#x#\n//a\nb", vec![NonTerminal("x"), Literal("\n//a\nb")]),
        ("\"quoted\" rest", vec![Literal("quoted"), Literal(" rest")]),
        ("\"a", vec![]),
        ("a;b", vec![Literal("a")]),
        ("a <b", vec![Literal("a ")]),
        ("a #bad", vec![Literal("a ")]),
        ("{a{b}}", vec![]),
        ("{a > b}", vec![]),
        ("{x\n}", vec![]),
        ("{x|}", vec![]),
        ("[{x|p(x:y)}] end", vec![List(each(Value("x"), Some("p(x:y)"))), Literal(" end")]),
        ("[ {x | p(x:y)} ]", vec![]),
        ("[#a#]", vec![]),
        ("x[", vec![Literal("x")]),
        ("#a b(c, d)#", vec![NonTerminal("a b(c, d)")]),
        ("# a#", vec![NonTerminal(" a")]),
        ("#x\ny#", vec![NonTerminal("x\ny")]),
        ("#é#", vec![NonTerminal("é")]),
        ("#x:y#", vec![]),
        ("{#ov(o)# | p(o:t)}", vec![Each(each(RawBody::NonTerminal("ov(o)"), Some("p(o:t)")))]),
        ("{x|\n p(a:b) & q(c:d)}", vec![Each(each(Value("x"), Some("p(a:b) & q(c:d)")))]),
        ("{\t x\t}", vec![value_of(" x\t")]),
        ("{\n x}", vec![]),
        ("\u{a0}a", vec![Literal("a")]),
        ("\u{1c}a", vec![Literal("a")]),
    ];
    for (text, symbols) in expected {
        assert_eq!(symbols::parse(text), symbols, "{text:?}");
    }
}

#[test]
fn alfworld_queries_are_read_as_textworld_reads_them() {
    let atom = |predicate, denied, placeholders: &[(&'static str, &'static str)]| RawAtom {
        predicate,
        denied,
        placeholders: placeholders.to_vec(),
    };
    let two = [atom("p", false, &[("a", "b"), ("c", "d")]), atom("q", true, &[("a", "b")])];
    assert_eq!(query::parse("p( a : b , c:d ) & !q(a:b)").as_deref(), Ok(&two[..]));
    assert_eq!(query::parse(" \n p(a:b,c:d)\n&\nnot_q(a:b) # c").as_deref(), Ok(&two[..]));
    assert_eq!(query::parse("!not_p(a')").as_deref(), Ok(&[atom("p", false, &[("a'", "a")])][..]));
    assert_eq!(
        query::parse("p/q (a:b-c/d)").as_deref(),
        Ok(&[atom("p/q", false, &[("a", "b-c/d")])][..])
    );
    assert_eq!(query::parse("p()").as_deref(), Ok(&[atom("p", false, &[])][..]));
    for wrong in [
        "",
        "p(a:b) &",
        "p(a:b) q(c:d)",
        "p(a-b:c)",
        "p(a:b,)",
        "p(a:b) & $q(a:b)",
        "p-q(a:b)",
        "! p(a:b)",
        "p",
    ] {
        assert!(query::parse(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn alfworld_expressions_are_read() {
    let name = |variable: &str| Term::Attribute(variable.to_owned(), Attribute::Name);
    let parsed = value::parse(" o.indefinite + ' ' + o.name or \"x\" ").map(|value| value.choices);
    let article = Term::Attribute("o".to_owned(), Attribute::Indefinite);
    let expected = vec![
        vec![article, Term::Text(" ".to_owned()), name("o")],
        vec![Term::Text("x".to_owned())],
    ];
    assert_eq!(parsed, Ok(expected));
    assert_eq!(value::parse("order").map(|value| value.choices), Ok(vec![vec![name("order")]]));
    for wrong in ["", "o.", "o.size", "o +", "o or", "'a", "o p", "f(o)", "'\\n'"] {
        assert!(value::parse(wrong).is_err(), "{wrong:?}");
    }
}
