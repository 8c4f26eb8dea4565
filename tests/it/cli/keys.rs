//! Keys that may do less than everything.

use super::User;

#[test]
fn a_key_is_made_listed_used_and_revoked() {
    let user = User::with_node();
    let reader = user.well(&["key", "add", "dashboard", "--role", "reader"]);
    assert!(reader.starts_with("reader:dashboard:") && reader.trim().split(':').count() == 4, "{reader}");
    let said = user.types(&["key", "add", "etl", "--role", "submitter", "--format", "json"]).with(0).json();
    assert_eq!((&said["name"], &said["role"]), (&"etl".into(), &"submitter".into()));
    assert_eq!(user.well(&["key", "list"]), "reader     dashboard\nsubmitter  etl\n");
    let said = user.types(&["key", "add", "etl", "--role", "reader"]).with(1);
    assert!(said.err.contains("there is a key `etl` already"), "{said:?}");

    // As somebody has it who was given the key.
    let by = |key: &str, words: &[&str]| {
        let mut command = user.command(words);
        let output = command.env("PROSCENIUM_KEY", key.trim()).output().expect("the program can be run");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let job = user.submits(&["ticker", r#"{"interval_ms": 10}"#]);
    let (code, said) = by(&reader, &["job", "status", &job]);
    assert!(code == Some(0) && said.contains("running"), "{said}");
    let (code, said) = by(&reader, &["job", "stop", &job]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the key `dashboard` may not control jobs: a reader may"), "{said}");
    user.well(&["key", "revoke", "dashboard"]);
    let (code, said) = by(&reader, &["job", "list"]);
    assert!(code == Some(3) && said.contains("key"), "{said}");
    user.well(&["job", "cancel", &job]);
    user.well(&["jobmanager", "stop"]);
}
