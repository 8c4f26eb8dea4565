//! Outputs and inputs that are not there, of another type, taken, finished or closed.

use proscenium::{CancelReason, InputError, Outcome, OutputError};

use super::text;
use crate::support::{cancel, completed, deadline, each_environment, ended, job, registered, start};

// Two outputs.
job!(TwoKinds {}, |this, flow| {
    let (words, lengths) = flow.from_batch(["a", "bb", "ccc"].map(String::from)).tee();
    words.collect("words");
    lengths.map(|word| (word.len() as u64, word)).collect("lengths");
});

job!(Pushed {}, |this, flow| {
    flow.from_channel::<u64>("numbers").map(|number| number * 2).collect("doubled");
});

job!(Letters {}, |this, flow| {
    flow.from_batch(0u64..).stream_out("letters");
});

#[test]
fn an_output_read_as_another_type_is_an_error_that_names_both() {
    each_environment(async |env| {
        let job = completed(env, TwoKinds {}).await;
        let error = deadline("output", job.output::<u64>("words")).await.unwrap_err();
        let OutputError::WrongType { output, expected, found, difference } = &error else { panic!("{error:?}") };
        assert_eq!((output.as_str(), expected.as_str(), found.as_str()), ("words", "u64", "string"));
        let words = format!("output `words` was read as `u64` and holds `string`: {difference}");
        assert_eq!(error.to_string(), words);
        assert!(!difference.is_empty());
        let error = deadline("output", job.output::<(u64, u64)>("lengths")).await.unwrap_err();
        assert!(error.to_string().contains("`(u64, u64)` and holds `(u64, string)`"), "{error}");
        // Item by item it is no different, and the right type still works.
        let mut one = job.output::<u64>("words");
        assert!(matches!(deadline("output", one.next()).await, Err(OutputError::WrongType { .. })));
        assert_eq!(crate::support::read::<String>(&job, "words").await, ["a", "bb", "ccc"]);
    });
}

#[test]
fn an_output_that_is_not_there_is_named_with_those_that_are() {
    each_environment(async |env| {
        let job = completed(env, TwoKinds {}).await;
        let error = deadline("output", job.output::<u64>("length")).await.unwrap_err();
        let existing = vec!["words".to_owned(), "lengths".to_owned()];
        assert_eq!(error, OutputError::NoSuchOutput { output: "length".to_owned(), existing });
        assert_eq!(error.to_string(), "no output is named `length`; the job's outputs: `words`, `lengths`");
        let job = start(env, Pushed {}).await;
        let error = deadline("output", job.output::<u64>("numbers")).await.unwrap_err();
        assert_eq!(error.to_string(), "no output is named `numbers`; the job's outputs: `doubled`");
        cancel(&job).await.unwrap();
    });
}

#[test]
fn an_input_that_is_not_there_is_named_with_those_that_are() {
    each_environment(async |env| {
        let job = start(env, Pushed {}).await;
        let error = deadline("send", job.input::<u64>("doubled").send(7)).await.unwrap_err();
        let existing = vec!["numbers".to_owned()];
        assert_eq!(*error.error(), InputError::NoSuchInput { input: "doubled".to_owned(), existing });
        assert_eq!(text(&error), "not sent: no input is named `doubled`; the job's inputs: `numbers`");
        assert_eq!(error.into_item(), 7);
        cancel(&job).await.unwrap();
    });
}

#[test]
fn an_input_of_another_type_is_an_error_that_names_both() {
    each_environment(async |env| {
        let job = start(env, Pushed {}).await;
        let input = job.input::<String>("numbers");
        let error = deadline("send", input.send("seven".to_owned())).await.unwrap_err();
        let InputError::WrongType { input, expected, found, difference } = error.error() else { panic!("{error:?}") };
        assert_eq!((input.as_str(), expected.as_str(), found.as_str()), ("numbers", "u64", "alloc::string::String"));
        let words = format!("not sent: input `numbers` takes `u64`, not `alloc::string::String`: {difference}");
        assert_eq!(text(&error), words);
        assert_eq!(error.into_item(), "seven");
        cancel(&job).await.unwrap();
    });
}

#[test]
fn an_input_finished_twice_is_finished_and_takes_nothing_more() {
    each_environment(async |env| {
        let job = start(env, Pushed {}).await;
        let input = job.input::<u64>("numbers");
        deadline("send", input.send(1)).await.unwrap();
        deadline("finish", input.finish()).await.unwrap();
        deadline("finish", input.finish()).await.unwrap();
        let error = deadline("send", input.send(2)).await.unwrap_err();
        // Whether the job has ended by then decides what it says.
        let finished = InputError::Finished { input: "numbers".to_owned() };
        let closed = InputError::Closed { input: "numbers".to_owned() };
        assert!([finished, closed].contains(error.error()), "{error:?}");
        assert_eq!(error.into_item(), 2);
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert_eq!(crate::support::read::<u64>(&job, "doubled").await, [2]);
    });
}

#[test]
fn an_input_of_a_stopped_job_gives_back_what_it_did_not_take() {
    each_environment(async |env| {
        let job = start(env, Pushed {}).await;
        let input = job.input::<u64>("numbers");
        deadline("send", input.send_all([1, 2, 3])).await.unwrap();
        deadline("stop", job.stop()).await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Stopped);
        let error = deadline("send", input.send(4)).await.unwrap_err();
        assert_eq!(*error.error(), InputError::Closed { input: "numbers".to_owned() });
        let words = "not sent: input `numbers` is closed, because the job was stopped or has ended";
        assert_eq!(text(&error), words);
        assert_eq!(error.into_item(), 4);
        let error = deadline("send", input.send_all([5, 6])).await.unwrap_err();
        assert_eq!(error.into_item(), [5, 6]);
        let error = deadline("finish", input.finish()).await.unwrap_err();
        assert_eq!(error, InputError::Closed { input: "numbers".to_owned() });
        assert_eq!(crate::support::read::<u64>(&job, "doubled").await, [2, 4, 6]);
    });
}

#[test]
fn an_output_of_a_cancelled_job_is_incomplete_and_says_why() {
    each_environment(async |env| {
        let job = start(env, Pushed {}).await;
        deadline("send", job.input::<u64>("numbers").send(1)).await.unwrap();
        cancel(&job).await.unwrap();
        let outcome = job.wait().await.unwrap();
        assert!(matches!(outcome, Outcome::Cancelled { reason: CancelReason::Requested, .. }), "{outcome}");
        let error = deadline("output", job.output::<u64>("doubled")).await.unwrap_err();
        let why = outcome.to_string();
        assert_eq!(error, OutputError::Incomplete { output: "doubled".to_owned(), why: why.clone() });
        assert_eq!(error.to_string(), format!("output `doubled` is incomplete: {why}"));
    });
}

#[test]
fn a_second_reader_of_a_streamed_output_is_refused_until_the_first_has_gone() {
    each_environment(async |env| {
        let job = start(env, Letters {}).await;
        let (mut first, mut second) = (job.output::<u64>("letters"), job.output::<u64>("letters"));
        assert_eq!(deadline("a letter", first.next()).await, Ok(Some(0)));
        let error = deadline("a letter", second.next()).await.unwrap_err();
        assert_eq!(error, OutputError::ReaderTaken { output: "letters".to_owned() });
        assert_eq!(error.to_string(), "output `letters` has a reader already");
        drop(first);
        assert_eq!(deadline("a letter", second.next()).await, Ok(Some(1)));
        cancel(&job).await.unwrap();
    });
}

registered![TwoKinds, Pushed, Letters];
