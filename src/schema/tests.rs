use std::{
    collections::{BTreeSet, HashMap},
    marker::PhantomData,
    net::IpAddr,
    num::NonZeroU32,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};

use super::{structure::Node, *};

fn text<T: DeserializeOwned>() -> String {
    match Schema::of::<T>() {
        Ok(schema) => schema.to_string(),
        Err(untraceable) => format!("untraceable: {}", untraceable.why),
    }
}

fn fingerprint<T: DeserializeOwned + 'static>() -> Fingerprint {
    TypeDescription::of::<T>().fingerprint()
}

fn difference<A: DeserializeOwned, B: DeserializeOwned>() -> String {
    let (here, there) = (Schema::of::<A>(), Schema::of::<B>());
    here.expect("the first type can be traced").difference(&there.expect("the second type can be traced"))
}

#[derive(Serialize, Deserialize)]
struct Unit;

#[derive(Serialize, Deserialize)]
struct Meters(f64);

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Transparent {
    inner: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Word {
    text: String,
    count: u64,
    length: Option<Meters>,
}

#[derive(Serialize, Deserialize)]
struct Page {
    words: Vec<Word>,
    first: Word,
    unit: Unit,
    tag: PhantomData<u8>,
}

#[derive(Serialize, Deserialize)]
enum Shape {
    Point,
    Circle(Meters),
    Pair(u8, char),
    Named { name: String, outline: Vec<(i32, i32)> },
}

#[derive(Serialize, Deserialize)]
struct Tree {
    value: i8,
    left: Option<Box<Tree>>,
    children: Vec<Tree>,
}

#[derive(Serialize, Deserialize)]
struct Wrapper<T> {
    inner: T,
}

#[test]
fn plain_types_and_containers_are_recorded() {
    assert_eq!(text::<String>(), "string");
    assert_eq!(text::<u64>(), "u64");
    assert_eq!(text::<()>(), "()");
    assert_eq!(text::<(String, u64)>(), "(string, u64)");
    assert_eq!(text::<(u8,)>(), "(u8,)");
    assert_eq!(text::<Option<bool>>(), "option<bool>");
    assert_eq!(text::<HashMap<String, Vec<f32>>>(), "{string: [f32]}");
    assert_eq!(text::<BTreeSet<i128>>(), "[i128]");
    assert_eq!(text::<[u8; 32]>(), "[u8; 32]");
    assert_eq!(text::<Result<u8, String>>(), "enum Result { Ok(u8), Err(string) }");
    assert_eq!(text::<crate::job::JobId>(), "JobId(u128)");
}

#[test]
fn types_of_std_are_recorded() {
    assert_eq!(text::<PathBuf>(), "string");
    assert_eq!(text::<Duration>(), "Duration { secs: u64, nanos: u32 }");
    assert_eq!(text::<SystemTime>(), "SystemTime { secs_since_epoch: u64, nanos_since_epoch: u32 }");
    assert_eq!(text::<IpAddr>(), "enum IpAddr { V4([u8; 4]), V6([u8; 16]) }");
    assert_eq!(text::<NonZeroU32>(), "u32");
}

#[test]
fn structs_and_enums_are_recorded_with_all_their_names() {
    assert_eq!(text::<Unit>(), "Unit");
    assert_eq!(text::<Transparent>(), "[u8]");
    let page = "Page { words: [Word { text: string, count: u64, length: option<Meters(f64)> }], first: Word, \
                unit: Unit, tag: PhantomData }";
    assert_eq!(text::<Page>(), page);
    let shape = "enum Shape { Point, Circle(Meters(f64)), Pair(u8, char), \
                 Named { name: string, outline: [(i32, i32)] } }";
    assert_eq!(text::<Shape>(), shape);
    let nested = text::<(Option<Shape>, Result<Shape, Shape>)>();
    assert_eq!(nested, format!("(option<{shape}>, enum Result {{ Ok(Shape), Err(Shape) }})"));
}

#[test]
fn instances_of_a_generic_type_are_told_apart() {
    let both = "(Wrapper { inner: string }, Wrapper { inner: Wrapper { inner: u8 } })";
    assert_eq!(text::<(Wrapper<String>, Wrapper<Wrapper<u8>>)>(), both);
}

#[test]
fn recursive_types_end() {
    assert_eq!(text::<Tree>(), "Tree { value: i8, left: option<Tree>, children: [Tree] }");

    #[derive(Serialize, Deserialize)]
    enum Expression {
        Sum(Box<Expression>, Box<Expression>),
        Call { name: String, arguments: Vec<Expression> },
        Not(Box<Expression>),
        Literal(i64),
    }
    let expression = "enum Expression { Sum(Expression, Expression), \
                      Call { name: string, arguments: [Expression] }, Not(Expression), Literal(i64) }";
    assert_eq!(text::<Expression>(), expression);
}

#[test]
fn an_enum_whose_end_lies_in_another_enum_is_recorded() {
    #[derive(Serialize, Deserialize)]
    enum Outer {
        Left(Box<Left>),
        Right(Box<Right>),
    }
    #[derive(Serialize, Deserialize)]
    struct Left {
        back: Outer,
        more: u8,
    }
    #[derive(Serialize, Deserialize)]
    struct Right {
        choice: Choice,
    }
    #[derive(Serialize, Deserialize)]
    enum Choice {
        Back(Outer),
        Out(char),
    }
    let outer = "enum Outer { Left(Left { back: Outer, more: u8 }), \
                 Right(Right { choice: enum Choice { Back(Outer), Out(char) } }) }";
    assert_eq!(text::<Outer>(), outer);
    // From within, the same structure begins elsewhere.
    assert!(text::<Choice>().starts_with("enum Choice { Back(enum Outer"));
}

#[test]
fn aliases_and_skipped_parts_are_no_parts() {
    #[derive(Serialize, Deserialize)]
    #[expect(dead_code, reason = "nothing reads what is skipped")]
    struct Aliased {
        #[serde(alias = "also_a", alias = "or_a")]
        a: u8,
        #[serde(skip)]
        skipped: u64,
        b: Kind,
        c: bool,
    }
    #[derive(Serialize, Deserialize)]
    enum Kind {
        #[serde(alias = "Uno")]
        One,
        Two(u8),
    }
    let schema = Schema::of::<Aliased>().expect("the type can be traced");
    let Form::Struct(Body::Fields(fields)) = &schema.definitions[0].form else { panic!("{schema} is no struct") };
    let nodes: Vec<_> = fields.iter().map(|(_, node)| &schema.nodes[*node]).collect();
    assert_eq!(nodes, [&Node::Plain("u8".into()), &Node::Defined(1), &Node::Plain("bool".into())]);
    let Form::Enum(variants) = &schema.definitions[1].form else { panic!("{schema} has no enum") };
    assert_eq!(variants.len(), 2);
}

#[test]
fn types_that_check_what_they_read_are_recorded_if_a_sample_suits_them() {
    struct NotEmpty;
    impl<'de> Deserialize<'de> for NotEmpty {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            if text.is_empty() { Err(serde::de::Error::custom("it is empty")) } else { Ok(Self) }
        }
    }
    assert_eq!(text::<(NotEmpty, Shape)>().split(',').next(), Some("(string"));
}

#[test]
fn types_that_cannot_be_recorded_say_why() {
    #[derive(Deserialize)]
    #[serde(untagged)]
    #[expect(dead_code, reason = "only its `Deserialize` counts")]
    enum Untagged {
        Number(u8),
        Text(String),
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its `Deserialize` counts")]
    struct Flattened {
        #[serde(flatten)]
        shape: Wrapper<u8>,
    }
    struct Strict;
    impl<'de> Deserialize<'de> for Strict {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            Err(serde::de::Error::custom(format!("{text:?} is no date")))
        }
    }
    assert!(text::<Untagged>().contains("`deserialize_any`"), "{}", text::<Untagged>());
    assert!(text::<Flattened>().starts_with("untraceable: "), "{}", text::<Flattened>());
    assert!(text::<IgnoredAny>().contains("`deserialize_ignored_any`"));
    assert_eq!(text::<Vec<Strict>>(), "untraceable: \"\" is no date");
}

#[test]
fn a_deserialize_that_misbehaves_is_untraceable() {
    struct Panics;
    impl<'de> Deserialize<'de> for Panics {
        fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            panic!("on purpose")
        }
    }
    struct Fickle;
    impl<'de> Deserialize<'de> for Fickle {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            use std::sync::atomic::{AtomicBool, Ordering};
            static ODD: AtomicBool = AtomicBool::new(false);
            if ODD.fetch_xor(true, Ordering::Relaxed) {
                u8::deserialize(deserializer)?;
            } else {
                char::deserialize(deserializer)?;
            }
            Ok(Self)
        }
    }
    struct Insatiable;
    impl<'de> Deserialize<'de> for Insatiable {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = Insatiable;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("more")
                }
                fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Insatiable, A::Error> {
                    loop {
                        seq.next_element::<u8>()?;
                    }
                }
            }
            deserializer.deserialize_seq(Visitor)
        }
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its `Deserialize` counts")]
    struct Endless {
        again: Box<Endless>,
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its `Deserialize` counts")]
    enum Circular {
        A(Box<Circular>),
        B(Vec<u8>, Box<Circular>),
    }
    assert_eq!(text::<Panics>(), "untraceable: its `Deserialize` panicked on a made-up value");
    assert!(text::<(Fickle, Shape)>().contains("from run to run"), "{}", text::<(Fickle, Shape)>());
    assert!(text::<Insatiable>().contains("steps"), "{}", text::<Insatiable>());
    assert!(text::<Endless>().contains("nested deeper"), "{}", text::<Endless>());
    assert_eq!(text::<Circular>(), "untraceable: enum `Circular` has no finite value");
}

#[test]
fn fingerprints_depend_on_the_structure_and_on_nothing_else() {
    assert_eq!(fingerprint::<Page>(), fingerprint::<Page>());
    assert_eq!(fingerprint::<Vec<u8>>(), fingerprint::<Transparent>());
    assert_eq!(fingerprint::<String>(), fingerprint::<PathBuf>());
    let all = [
        fingerprint::<String>(),
        fingerprint::<u64>(),
        fingerprint::<u32>(),
        fingerprint::<()>(),
        fingerprint::<Unit>(),
        fingerprint::<(u64,)>(),
        fingerprint::<(u64, u64)>(),
        fingerprint::<[u64; 3]>(),
        fingerprint::<Vec<u64>>(),
        fingerprint::<Option<u64>>(),
        fingerprint::<Wrapper<u64>>(),
        fingerprint::<Meters>(),
        fingerprint::<Shape>(),
        fingerprint::<Tree>(),
        fingerprint::<Page>(),
        fingerprint::<IgnoredAny>(),
    ];
    let distinct: BTreeSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len());
}

#[test]
fn fingerprints_do_not_change_from_build_to_build() {
    assert_eq!(fingerprint::<(String, u64)>().to_string(), "8ca5867dece398febc0d1a92949914b6");
    assert_eq!(fingerprint::<Shape>().to_string(), "75e54c939fcd2f8afb4d443bea0338df");
}

#[test]
fn a_difference_names_the_place_and_both_sides() {
    mod changed {
        use serde::Deserialize;

        use super::Meters;

        #[derive(Deserialize)]
        #[expect(dead_code, reason = "only its `Deserialize` counts")]
        pub(super) struct Word {
            text: String,
            count: u32,
            length: Option<Meters>,
        }

        #[derive(Deserialize)]
        #[expect(dead_code, reason = "only its `Deserialize` counts")]
        pub(super) struct Tree {
            value: i8,
            children: Vec<Tree>,
            left: Option<Box<Tree>>,
        }

        #[derive(Deserialize)]
        #[expect(dead_code, reason = "only its `Deserialize` counts")]
        pub(super) enum Shape {
            Point,
            Circle(Meters),
            Pair { left: u8, right: char },
            Polygon,
        }
    }
    assert_eq!(difference::<u64, u32>(), "the type is u64 here and u32 there");
    assert_eq!(difference::<u64, Word>(), "the type is u64 here and Word there");
    assert_eq!(difference::<(String, u64), (String, u32)>(), "field `1` of the tuple is u64 here and u32 there");
    assert_eq!(difference::<(u8, u8), (u8, u8, u8)>(), "the tuple has 2 items here and 3 there");
    assert_eq!(
        difference::<Vec<Option<u8>>, Vec<Option<i8>>>(),
        "the content of the element of the list is u8 here and i8 there"
    );
    assert_eq!(difference::<Word, changed::Word>(), "field `count` of `Word` is u64 here and u32 there");
    assert_eq!(difference::<Vec<Word>, Vec<changed::Word>>(), "field `count` of `Word` is u64 here and u32 there");
    let order = "the fields of `Tree` are in the order value, left, children here and value, children, left there";
    assert_eq!(difference::<Tree, changed::Tree>(), order);
    assert_eq!(difference::<Shape, changed::Shape>(), "variant `Named` of `Shape` exists here and not there");
    assert_eq!(difference::<Unit, Meters>(), "the type is struct `Unit` here and struct `Meters` there");
    assert_eq!(
        difference::<Result<u8, u8>, Result<u8, char>>(),
        "field `0` of variant `Err` of `Result` is u8 here and char there"
    );
    assert_eq!(difference::<Tree, Tree>(), "the two types have the same structure");
}

#[test]
fn a_description_falls_back_to_the_name_of_an_untraceable_type() {
    let description = TypeDescription::of::<IgnoredAny>();
    assert_eq!(description.text(), std::any::type_name::<IgnoredAny>());
    assert!(description.difference(&TypeDescription::of::<u8>()).contains("cannot be found out"));
    assert_eq!(TypeDescription::of::<(String, u64)>().text(), "(string, u64)");
    assert!(Arc::ptr_eq(&TypeDescription::of::<u8>(), &TypeDescription::of::<u8>()));
}
