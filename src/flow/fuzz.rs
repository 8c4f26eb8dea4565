//! Parameters of jobs, as a peer or a user may give them, for the fuzz targets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    flow::{Flow, Job, JobRegistry},
    job::{BuildError, EncodedJob, JobRefusal},
    schema::TypeDescription,
};

/// Declares a job that lays out nothing.
macro_rules! nothing {
    ($job:ident { $($field:ident: $type:ty),* }) => {
        #[derive(Debug, Serialize, Deserialize)]
        pub(super) struct $job { $($field: $type),* }

        impl Job for $job {
            const NAME: &'static str = stringify!($job);

            fn build(&self, _: &mut Flow) -> Result<(), BuildError> {
                Ok(())
            }
        }
    };
}

nothing!(Plain { name: String, count: u64, ratio: f64, on: bool, letter: char, wide: i128 });
nothing!(Nested { tree: Tree, table: BTreeMap<String, Vec<Option<u8>>> });
nothing!(Weightless { units: Vec<()>, none: Vec<[u8; 0]> });
nothing!(Variants { shapes: Vec<Shape>, pair: (u8, Box<Shape>) });

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Tree {
    label: u8,
    below: Vec<Tree>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Shape {
    Point,
    Circle(f32),
    Named { name: String, inner: Option<Box<Shape>> },
}

fn registry() -> JobRegistry {
    crate::jobs![Plain, Nested, Weightless, Variants]
}

fn job(which: u8, parameters: &[u8]) -> EncodedJob {
    let (name, description) = match which % 4 {
        0 => (Plain::NAME, TypeDescription::of::<Plain>()),
        1 => (Nested::NAME, TypeDescription::of::<Nested>()),
        2 => (Weightless::NAME, TypeDescription::of::<Weightless>()),
        _ => (Variants::NAME, TypeDescription::of::<Variants>()),
    };
    let fingerprint = description.fingerprint();
    EncodedJob { name: name.to_owned(), version: 1, fingerprint, parameters: parameters.to_vec() }
}

/// Parameters of a job that is known, from a peer that has the key. What is taken for a job is one that can be sent on.
pub fn parameters(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    if let Ok(payload) = registry().open(&job(*which, bytes)) {
        let sent_on = payload.0.encode().expect("what was read can be written");
        let again = registry().open(&sent_on);
        // A length can be written in more bytes than it takes, which are then too few for as many elements without any.
        let is_as_before = match &again {
            Ok(_) => true,
            Err(JobRefusal::Parameters { message, .. }) => message.contains("claims more elements"),
            Err(_) => false,
        };
        assert!(is_as_before, "what was written cannot be read: {:?}", again.err());
    }
}

/// Parameters of a job as JSON, from the command line.
#[cfg(feature = "cli")]
pub fn json(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(bytes);
    if let Ok(payload) = registry().read_json(&job(*which, &[]).name, &text) {
        let sent = payload.0.encode().expect("what was read can be written");
        // JSON may be nested as deep as what a node takes, and no deeper.
        registry().open(&sent).expect("what was read can be sent to a node");
    }
}

#[cfg(all(test, feature = "cli"))]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    const JSON: [(u8, &str); 8] = [
        (0, r#"{"name":"a","count":1,"ratio":2.5,"on":true,"letter":"x","wide":-1}"#),
        (0, r#"{"name":"\u00e4","count":18446744073709551615,"ratio":-1e308,"on":false,"letter":"\n","wide":1}"#),
        (1, r#"{"tree":{"label":1,"below":[{"label":2,"below":[]}]},"table":{"a":[1,null]}}"#),
        (1, r#"{"tree":{"label":1,"below":[{"label":2,"below":[{"label":3,"below":[]}]}]},"table":{}}"#),
        (2, r#"{"units":[null,null],"none":[[]]}"#),
        (2, r#"{"units":[],"none":[]}"#),
        (3, r#"{"shapes":["Point",{"Circle":1.5}],"pair":[1,{"Named":{"name":"n","inner":"Point"}}]}"#),
        (3, r#"{"shapes":[],"pair":[255,{"Named":{"name":"","inner":null}}]}"#),
    ];

    /// The seeds are written with `PROSCENIUM_SEEDS=tests/fuzz/corpus cargo test seeds`.
    #[test]
    fn the_seeds_are_what_the_targets_are_about() {
        for (number, (which, text)) in JSON.into_iter().enumerate() {
            let payload = registry().read_json(&job(which, &[]).name, text).unwrap();
            let encoded = payload.0.encode().unwrap();
            assert!(registry().open(&job(which, &encoded.parameters)).is_ok(), "{text}");
            let Some(corpus) = std::env::var_os("PROSCENIUM_SEEDS") else { continue };
            for (target, bytes) in [("json", text.as_bytes()), ("parameters", &encoded.parameters)] {
                let folder = Path::new(&corpus).join(target);
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join(format!("seed-{number:02}")), [&[which][..], bytes].concat()).unwrap();
            }
        }
    }
}
