//! Bodies of requests to the server: whatever is taken is within the engine's limits, and what is not is an error of the
//! client's. The first byte chooses the endpoint.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};
use trtc_engine::manifest::Dims;
use trtc_runtime::text::{ChatTemplate, Tokenizer};
use trtc_runtime::{Limits, Sampling};
use trtc_server::api::Endpoint;
use trtc_server::api::fields::Fields;
use trtc_server::api::params::Facts;

static FACTS: LazyLock<Facts> = LazyLock::new(|| {
    let tokenizer = r#"{"version":"1.0","added_tokens":[],"pre_tokenizer":{"type":"WhitespaceSplit"},
        "model":{"type":"WordLevel","vocab":{"<unk>":0,"a":1,"b":2,"user":3},"unk_token":"<unk>"}}"#;
    let template = "{% if tools %}<tool_call> {% endif %}{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}";
    let dims = Dims { max_batch: 4, max_seq_len: 64, max_step_tokens: 64, max_logit_rows: 64 };
    Facts {
        limits: Limits { vocab: 16, dims, pages: 8, page_tokens: 16, text: true },
        sampling: Sampling::default(),
        tokenizer: Some(Arc::new(Tokenizer::new(tokenizer.as_bytes(), Some(5)).expect("a tokenizer"))),
        template: Some(Arc::new(ChatTemplate::new(template, None, None).expect("a template"))),
        // Bodies are what is read here; compiling grammars is a library's.
        grammars: None,
    }
});

fuzz_target!(|bytes: &[u8]| {
    let Some((&which, body)) = bytes.split_first() else {
        return;
    };
    let endpoint = match which % 3 {
        0 => Endpoint::Completions,
        1 => Endpoint::Chat,
        _ => Endpoint::Responses,
    };
    let wish = Fields::parse(body).and_then(|fields| endpoint.parse(fields, &FACTS));
    match wish {
        Ok(wish) => {
            assert!(!wish.requests.is_empty());
            assert!(wish.echo.is_empty() || wish.echo.len() == wish.requests.len());
            for request in &wish.requests {
                FACTS.limits.check(request).expect("what is taken is within the limits");
                assert!(request.prompt.len() as u64 + u64::from(request.max_tokens) <= 64);
            }
        }
        Err(error) => assert_eq!(error.status, 400, "{error}"),
    }
});
