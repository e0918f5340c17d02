//! Requests to the API: the first line is the method and the target, the rest is the body.

#![no_main]

use std::sync::OnceLock;

use adit_gateway::fuzzing::Server;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static SERVER: OnceLock<Server> = const { OnceLock::new() };
}

fuzz_target!(|request: &[u8]| {
    let end = request.iter().position(|byte| *byte == b'\n');
    let (line, body) = request.split_at(end.unwrap_or(request.len()));
    let Some((method, target)) = std::str::from_utf8(line)
        .ok()
        .and_then(|it| it.split_once(' '))
    else {
        return;
    };
    SERVER.with(|server| {
        let server = server.get_or_init(|| Server::new().expect("a runtime"));
        let body = body.get(1..).unwrap_or_default();
        if let Some(status) = server.answer(method, target, body) {
            assert!(status != 500, "{method} {target} is answered with 500");
        }
    });
});
