//! Jobs whose parameters somebody has typed.

use serde::de::IgnoredAny;
use serde_ignored::Path;
use serde_json::Value;

use super::{JobPayload, Typed};
use crate::{
    codec::{self, DecodeError},
    flow::Job,
    schema::TypeDescription,
};

/// Reads a job of one type; notes the fields for which it has no use.
pub(super) type Read = fn(&str, &mut Vec<Vec<String>>) -> Result<JobPayload, serde_json::Error>;

/// The ways of writing that there are no parameters: which of them a type takes depends on its form.
const NOTHING: [&str; 3] = ["{}", "null", "[]"];

pub(super) fn read<J: Job>(json: &str, unknown: &mut Vec<Vec<String>>) -> Result<JobPayload, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let job: J = serde_ignored::deserialize(&mut reader, |path| unknown.push(names(&path)))?;
    reader.end()?;
    Ok(JobPayload(Box::new(Typed(job))))
}

/// # Errors
///
/// What is wrong with the parameters, in words. A field that the type does not have is wrong: it would have no effect, and
/// whoever typed it wants one.
pub(super) fn payload(read: Read, json: &str, description: &TypeDescription) -> Result<JobPayload, String> {
    let letters: String = json.split_whitespace().collect();
    let first = if letters.is_empty() { NOTHING[0] } else { json };
    let nothing = letters.is_empty() || NOTHING.contains(&&*letters);
    let mut unknown = Vec::new();
    let attempt = |json: &str, unknown: &mut Vec<Vec<String>>| {
        codec::catching(|| read(json, unknown).map_err(|error| DecodeError::Invalid(error.to_string())))
    };
    let mut result = attempt(first, &mut unknown);
    if result.is_err() && nothing {
        let another = NOTHING.into_iter().find_map(|json| attempt(json, &mut Vec::new()).ok());
        result = another.map_or(result, Ok);
    }
    if let Some(path) = unknown.first() {
        return Err(no_field(path, description));
    }
    result.map_err(|error| match error {
        // That an identifier is expected says nothing to somebody who does not know what these are to be written in.
        DecodeError::Invalid(message) if serde_json::from_str::<IgnoredAny>(first).is_err() => {
            format!("they are not JSON ({message})")
        }
        DecodeError::Invalid(message) => message,
        other => other.to_string(),
    })
}

/// Parameters that the type takes, and which of their fields may be left out. None if no such ones can be made up.
pub(super) fn example(read: Read, description: &TypeDescription) -> Option<(Value, Vec<String>)> {
    let is_read = |value: &Value| {
        let read =
            || read(&value.to_string(), &mut Vec::new()).map_err(|error| DecodeError::Invalid(error.to_string()));
        codec::catching(read).is_ok()
    };
    let example = description.example().filter(is_read)?;
    let fields = example.as_object().into_iter().flatten();
    let optional = fields.filter(|(name, _)| {
        let mut less = example.clone();
        less.as_object_mut().is_some_and(|fields| fields.remove(*name).is_some()) && is_read(&less)
    });
    let optional = optional.map(|(name, _)| name.clone()).collect();
    Some((example, optional))
}

fn no_field(path: &[String], description: &TypeDescription) -> String {
    let wanted = path.last().map_or("", String::as_str);
    let near = description.field_names().map(|name| (distance(wanted, name), name));
    // A third of the letters may be wrong, and two of a short name.
    let nearest = near.filter(|(distance, name)| *distance < name.len() && *distance <= (name.len() / 3).max(2)).min();
    let meant = nearest.map_or_else(String::new, |(_, name)| format!("; is `{name}` meant?"));
    format!("there is no field `{}`{meant}", path.join("."))
}

/// The names on the way to a value.
fn names(path: &Path<'_>) -> Vec<String> {
    let (parent, name) = match path {
        Path::Root => return Vec::new(),
        Path::Seq { parent, index } => (parent, Some(index.to_string())),
        Path::Map { parent, key } => (parent, Some(key.clone())),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => (parent, None),
    };
    let mut names = names(parent);
    names.extend(name);
    names
}

/// How many letters have to be changed, left out or added to make the one of the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    use crate::{
        flow::{Flow, JobRegistry},
        job::BuildError,
    };

    macro_rules! job {
        ($($job:ident)*) => {
            $(impl crate::flow::Job for $job {
                const NAME: &'static str = stringify!($job);

                fn build(&self, _: &mut Flow) -> Result<(), BuildError> {
                    Ok(())
                }
            })*
        };
    }

    #[derive(Serialize, Deserialize)]
    struct Upper;

    #[derive(Serialize, Deserialize)]
    struct Braces {}

    #[derive(Serialize, Deserialize)]
    struct Brackets();

    #[derive(Serialize, Deserialize)]
    struct Around(Upper);

    #[derive(Serialize, Deserialize)]
    struct Retry {
        retries: u32,
        #[serde(default)]
        interval_ms: u64,
        limit: Option<u64>,
        #[serde(default, alias = "former")]
        nested: Vec<Nested>,
        #[serde(default)]
        free: BTreeMap<String, u32>,
    }

    #[derive(Serialize, Deserialize)]
    struct Nested {
        name: String,
        more: Option<Box<Nested>>,
    }

    #[derive(Serialize, Deserialize)]
    struct Open {
        #[serde(flatten)]
        rest: BTreeMap<String, serde_json::Value>,
    }

    #[derive(Serialize, Deserialize)]
    enum Mode {
        Fast,
        Slow { seconds: u64 },
    }

    #[derive(Serialize, Deserialize)]
    struct Sum {
        numbers: Vec<i32>,
        #[serde(default)]
        scale: f64,
        limit: Option<u64>,
        mode: Mode,
    }

    job!(Upper Braces Brackets Around Retry Open Sum);

    fn jobs() -> JobRegistry {
        crate::jobs![Upper, Braces, Brackets, Around, Retry, Open, Sum]
    }

    fn refused(name: &str, json: &str) -> Option<String> {
        jobs().read_json(name, json).err().map(|error| error.to_string())
    }

    #[test]
    fn no_parameters_are_none_however_they_are_written() {
        for name in ["Upper", "Braces", "Brackets", "Around", "Open"] {
            for json in ["{}", "null", "", " { } ", "[]"] {
                assert_eq!(refused(name, json), None, "{name} {json}");
            }
            if name != "Open" {
                assert!(refused(name, "{\"x\": 1}").is_some(), "{name}");
            }
            assert!(refused(name, "7").is_some() && refused(name, "{").is_some(), "{name}");
        }
        let error = refused("Retry", "").unwrap();
        assert!(error.contains("missing field `retries`"), "{error}");
    }

    #[test]
    fn how_parameters_are_written_and_which_may_be_left_out_is_told_where_it_is_known() {
        let error = refused("Sum", "scale=1").unwrap();
        assert!(error.contains("they are not JSON (expected value at line 1 column 1); they have the "), "{error}");
        let example = r#"such as {"limit":1,"mode":"Fast","numbers":[1],"scale":1.5}"#;
        assert!(error.ends_with(example) && refused("Sum", &example[8..]).is_none(), "{error}");
        // The description names its fields by their aliases.
        assert!(!refused("Retry", "7").unwrap().contains("such as"));
        let jobs = jobs();
        let optional = |name: &str| {
            let found = jobs.descriptions().find(|description| description.name == name);
            found.expect("it is one of them").optional
        };
        assert_eq!(optional("Sum"), ["limit", "scale"]);
        assert_eq!((optional("Upper"), optional("Retry")), (Vec::new(), Vec::new()));
    }

    #[test]
    fn a_field_that_there_is_not_is_refused_and_the_nearest_named() {
        for json in [
            r#"{"retries": 1}"#,
            r#"{"retries": 1, "limit": null}"#,
            r#"{"retries": 1, "free": {"retires": 7}}"#,
            r#"{"retries": 1, "former": [{"name": "n"}]}"#,
        ] {
            assert_eq!(refused("Retry", json), None, "{json}");
        }
        assert_eq!(refused("Open", r#"{"anything": 1}"#), None);
        for (json, what) in [
            (r#"{"retires": 1}"#, "there is no field `retires`; is `retries` meant?"),
            (r#"{"retries": 1, "interval": 5}"#, "there is no field `interval`; is `interval_ms` meant?"),
            (r#"{"retries": 1, "intervalms": 5}"#, "there is no field `intervalms`; is `interval_ms` meant?"),
            (r#"{"retries": 1, "verbosity": 5}"#, "there is no field `verbosity`; they have the structure Retry {"),
            (r#"{"retries": 1, "nested": [{"name": "n", "mroe": 1}]}"#, "no field `nested.0.mroe`; is `more` meant?"),
            (
                r#"{"retries": 1, "nested": [{"name": "n", "more": {"name": "m", "nmae": ""}}]}"#,
                "no field `nested.0.more.nmae`; is `name` meant?",
            ),
        ] {
            let error = refused("Retry", json).unwrap_or_default();
            assert!(error.contains(what), "{json}: {error}");
        }
    }
}
