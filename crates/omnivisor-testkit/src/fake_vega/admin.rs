//! What a core node's admin endpoint answers: gorilla's rpc/json v1 with the one service a supervisor asks, or what a
//! test wants instead. The bytes were compared with those of gorilla/rpc 1.2.0 itself (`tests/fake_vega/admin.rs`);
//! what differs are the words for JSON that cannot be read, and numbers with a fraction as an id.

use serde_json::{Map, Value, json};

use super::control::{Control, Rpc};
use super::http::{Reply, Response};
use crate::upstream::Request;
use crate::wire;

/// The answer of a core node of this version.
pub(super) fn answer(control: &Control, version: &str, http_path: &str, request: &Request, body: &[u8]) -> Reply {
    match control.rpc {
        Rpc::Hang => Reply::Hang,
        Rpc::Refuse => Reply::HangUp,
        Rpc::Garbage => Reply::Raw(b"\x16\x00 this is not HTTP \xff\xfe\r\n\r\n"),
        Rpc::Huge => Reply::Endless(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1099511627776\r\n\r\n{\"result\":\"",
        ),
        Rpc::BadRequest => Reply::Http(Response::text("400 Bad Request", "rpc: not today")),
        Rpc::Html => Reply::Http(Response {
            content_type: Some("text/html"),
            ..Response::json("<!doctype html><title>Proxy</title><h1>It works</h1>\n")
        }),
        Rpc::Ok | Rpc::Null | Rpc::Error | Rpc::ReadyWithoutRelease | Rpc::WrongId => {
            Reply::Http(if request.path == http_path {
                call(control, version, request, body).unwrap_or_else(|refusal| refusal)
            } else {
                Response::not_found()
            })
        }
    }
}

/// One call, checked in gorilla's order.
fn call(control: &Control, version: &str, request: &Request, body: &[u8]) -> Result<Response, Response> {
    if request.method != "POST" {
        let reason = format!("rpc: POST method required, received {}", request.method);
        return Err(Response::text("405 Method Not Allowed", reason));
    }
    let content_type = request.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default();
    if !content_type.eq_ignore_ascii_case("application/json") {
        let reason = format!("rpc: unrecognized Content-Type: {content_type}");
        return Err(Response::text("415 Unsupported Media Type", reason));
    }
    let bad = |reason: String| Response::text("400 Bad Request", reason);
    let sent = first_document(body).map_err(bad)?;
    // Go does not mind the case of keys.
    let key = |name: &str| {
        let found = sent.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        found.filter(|value| !value.is_null())
    };
    let method = match key("method") {
        None => "",
        Some(Value::String(method)) => method,
        Some(other) => {
            let reason = "into Go struct field serverRequest.method of type string";
            return Err(bad(format!("json: cannot unmarshal {} {reason}", go_name(other))));
        }
    };
    match method.split('.').collect::<Vec<_>>().as_slice() {
        ["protocolupgrade", "UpgradeStatus"] => {}
        ["protocolupgrade", _] => return Err(bad(format!("rpc: can't find method {method:?}"))),
        [_, _] => return Err(bad(format!("rpc: can't find service {method:?}"))),
        _ => return Err(bad(format!("rpc: service/method request ill-formed: {method:?}"))),
    }
    let into = |what: &Value, into: &str| {
        bad(format!("json: cannot unmarshal {} into Go value of type {into}", go_name(what)))
    };
    match key("params") {
        None => return Err(bad("rpc: method request ill-formed: missing params field".to_owned())),
        Some(Value::Array(params)) => match params.first() {
            None | Some(Value::Null | Value::Object(_)) => {}
            Some(other) => return Err(into(other, "admin.ReadyForUpgradeArgs")),
        },
        Some(other) => return Err(into(other, "[1]interface {}")),
    }
    let Some(id) = key("id") else {
        // A notification, which is not answered.
        return Ok(Response { status: "200 OK", content_type: None, nosniff: true, body: String::new() });
    };
    let (result, error) = match control.rpc {
        Rpc::Null => (Value::Null, Value::Null),
        Rpc::Error => (Value::Null, "the node is not well".into()),
        _ => (upgrade_status(control, version), Value::Null),
    };
    let id = if control.rpc == Rpc::WrongId { &json!("another") } else { id };
    let body = wire::compact(&json!({"result": result, "error": error, "id": id})) + "\n";
    Ok(Response { status: "200 OK", content_type: Some("application/json; charset=utf-8"), nosniff: true, body })
}

/// Once the node is of the accepted version, the upgrade is behind it.
fn upgrade_status(control: &Control, version: &str) -> Value {
    let number = |tag: &str| tag.trim_start_matches(['v', 'V']).to_owned();
    let accepted = control.accepted.as_ref().filter(|accepted| number(&accepted.tag) != number(version));
    let arrived = control.accepted.is_some() && accepted.is_none();
    let (tag, height) = accepted.map_or(("", 0), |accepted| (accepted.tag.as_str(), accepted.height));
    let info = json!({"VegaReleaseTag": tag, "UpgradeBlockHeight": height});
    match control.rpc {
        Rpc::ReadyWithoutRelease => json!({"AcceptedReleaseInfo": null, "ReadyToUpgrade": true}),
        _ if control.before_first_block => json!({"AcceptedReleaseInfo": null, "ReadyToUpgrade": false}),
        _ => json!({"AcceptedReleaseInfo": info, "ReadyToUpgrade": control.ready && !arrived}),
    }
}

/// The first one, whatever follows it.
fn first_document(body: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::Deserializer::from_slice(body).into_iter::<Value>().next() {
        None => Err("EOF".to_owned()),
        Some(Err(error)) => Err(error.to_string()),
        Some(Ok(Value::Object(sent))) => Ok(sent),
        Some(Ok(other)) => {
            Err(format!("json: cannot unmarshal {} into Go value of type json.serverRequest", go_name(&other)))
        }
    }
}

fn go_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
