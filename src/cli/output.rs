//! `job output`: the items of an output, whatever their type.

use std::io::{self, Write};

use futures::FutureExt;

use super::{
    args::ReadOutput,
    exit::{Code, Failure},
    screen::{Screen, json_text},
    table,
};
use crate::{
    blocking::block_on,
    handle::{JobHandle, QueryError},
    port::OutputError,
    schema::TypeDescription,
};

pub(super) fn output(job: &JobHandle, read: &ReadOutput, screen: &mut Screen) -> Result<Code, Failure> {
    match &read.output {
        Some(name) => {
            print(job, name, read.limit.unwrap_or(u64::MAX), screen)?;
            Ok(Code::Done)
        }
        None => list(job, screen),
    }
}

fn list(job: &JobHandle, screen: &mut Screen) -> Result<Code, Failure> {
    let outputs = block_on(job.output_types())?;
    if screen.is_json() {
        let outputs = outputs.iter().map(
            |(name, items)| serde_json::json!({ "name": name, "items": items.as_ref().map(TypeDescription::text) }),
        );
        screen.json(&outputs.collect::<Vec<_>>().into())?;
        return Ok(Code::Done);
    }
    if outputs.is_empty() {
        screen.line(format_args!("the job has no outputs"))?;
        return Ok(Code::Done);
    }
    let rows = outputs.into_iter().map(|(name, items)| {
        [name, items.map_or_else(|| "gone: not kept when the node was started anew".to_owned(), |items| items.text())]
    });
    screen.line(format_args!("{}", table::table(["OUTPUT", "ITEMS"], rows)))?;
    Ok(Code::Done)
}

/// Why an output was not printed to its end.
pub(super) enum Unprinted {
    Output(OutputError),
    Other(Failure),
}

impl From<OutputError> for Unprinted {
    fn from(error: OutputError) -> Self {
        Self::Output(error)
    }
}

impl From<io::Error> for Unprinted {
    fn from(error: io::Error) -> Self {
        Self::Other(error.into())
    }
}

impl From<QueryError> for Unprinted {
    fn from(error: QueryError) -> Self {
        Self::Other(error.into())
    }
}

impl From<Unprinted> for Failure {
    fn from(unprinted: Unprinted) -> Self {
        match unprinted {
            Unprinted::Output(error) => error.into(),
            Unprinted::Other(failure) => failure,
        }
    }
}

/// Prints each item as one line of JSON, in either format: there is no other form for all types.
pub(super) fn print(job: &JobHandle, name: &str, limit: u64, screen: &mut Screen) -> Result<(), Unprinted> {
    let outputs = block_on(job.output_types())?;
    let existing = || outputs.iter().map(|(name, _)| name.clone()).collect();
    let description = match outputs.iter().find(|(known, _)| known == name) {
        None => return Err(OutputError::NoSuchOutput { output: name.to_owned(), existing: existing() }.into()),
        Some((_, None)) => return Err(OutputError::Gone { id: job.id() }.into()),
        Some((_, Some(description))) => description.clone(),
    };
    if let Err(untraceable) = description.known() {
        let message =
            format!("the items of output `{name}` can only be read by code that has their type: {untraceable}");
        return Err(Unprinted::Other(Failure::new(Code::Refused, message)));
    }
    let mut output = block_on(job.shown_output(name, description.clone()))?;
    let mut out = screen.buffered();
    let mut left = limit;
    while left > 0 {
        let item = match output.next().now_or_never() {
            Some(item) => item,
            None => {
                // Whoever reads along sees all there is while the next one is waited for.
                out.flush()?;
                block_on(output.next())
            }
        };
        let item = match item {
            Err(error @ OutputError::BegunAnew { .. }) => {
                out.flush()?;
                eprintln!("{error}");
                output = block_on(job.shown_output(name, description.clone()))?;
                continue;
            }
            item => item?,
        };
        let Some(item) = item else { break };
        left -= 1;
        writeln!(out, "{}", json_text(&item))?;
    }
    out.flush()?;
    Ok(())
}
