//! The keys by which others may do less than everything.

use serde_json::json;

use super::{
    args::{KeyCommand, Role},
    exit::{Code, Failure},
    screen::Screen,
    settings::Settings,
    table,
};
use crate::{blocking::block_on, link::KeyRole};

pub(super) fn carry_out(what: KeyCommand, settings: &Settings, screen: &mut Screen) -> Result<Code, Failure> {
    let env = settings.connect()?;
    match what {
        KeyCommand::List => {
            let keys = block_on(env.keys())?;
            if screen.is_json() {
                let keys: Vec<_> =
                    keys.iter().map(|key| json!({ "name": key.name, "role": key.role.to_string() })).collect();
                screen.json(&json!(keys))?;
                return Ok(Code::Done);
            }
            for key in keys {
                screen.line(format_args!("{:<9}  {}", key.role.to_string(), table::clean(&key.name)))?;
            }
        }
        KeyCommand::Add { name, role } => {
            let role = match role {
                Role::Reader => KeyRole::Reader,
                Role::Submitter => KeyRole::Submitter,
                Role::Worker => KeyRole::Worker,
            };
            let key = block_on(env.add_key(name.as_str(), role))?.reveal();
            if screen.is_json() {
                screen.json(&json!({ "name": name, "role": role.to_string(), "key": key }))?;
            } else {
                screen.line(format_args!("{key}"))?;
            }
        }
        KeyCommand::Revoke { name } => {
            block_on(env.revoke_key(name.as_str()))?;
            if screen.is_json() {
                screen.json(&json!({ "name": name, "revoked": true }))?;
            } else {
                screen.line(format_args!("the key `{}` is revoked", table::clean(&name)))?;
            }
        }
    }
    Ok(Code::Done)
}
