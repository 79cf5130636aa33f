use super::*;
use crate::ids::{ContainerId, SandboxId};

fn request() -> PendingRequest {
    PendingRequest::PortForward(PortForward { sandbox: SandboxId::random(), ports: vec![80] })
}

fn redeem(tokens: &Tokens, token: &str) -> Option<PendingRequest> {
    tokens.redeem(token, |_| Some(())).ok().map(|(request, ())| request)
}

#[tokio::test(start_paused = true)]
async fn cve_2020_8558_a_token_is_128_random_bits_and_safe_in_a_url() {
    let tokens = Tokens::default();
    let (mut ones, mut zeros) = (0_u128, 0_u128);
    for _ in 0..100 {
        let token = tokens.put(request()).unwrap();
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{token}");
        let bits = u128::from_be_bytes(URL_SAFE_NO_PAD.decode(&token).unwrap().try_into().unwrap());
        (ones, zeros) = (ones | bits, zeros | !bits);
    }
    assert_eq!((ones, zeros), (u128::MAX, u128::MAX), "some bits are always the same");
}

#[tokio::test(start_paused = true)]
async fn cve_2020_8558_a_token_works_once() {
    let tokens = Tokens::default();
    let token = tokens.put(request()).unwrap();
    assert!(matches!(redeem(&tokens, &token), Some(PendingRequest::PortForward(_))));
    assert!(redeem(&tokens, &token).is_none());
}

#[tokio::test(start_paused = true)]
async fn cve_2020_8558_a_token_works_for_a_minute() {
    let tokens = Tokens::default();
    let (in_time, late) = (tokens.put(request()).unwrap(), tokens.put(request()).unwrap());
    tokio::time::advance(Duration::from_secs(59)).await;
    assert!(redeem(&tokens, &in_time).is_some());
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(redeem(&tokens, &late).is_none());
}

#[tokio::test(start_paused = true)]
async fn cve_2020_8558_the_1001st_that_waits_is_refused_until_one_is_used_or_expires() {
    let tokens = Tokens::default();
    let first = tokens.put(request()).unwrap();
    for _ in 1..MOST {
        tokens.put(request()).unwrap();
    }
    assert!(tokens.put(request()).is_err());
    assert!(redeem(&tokens, &first).is_some());
    assert!(tokens.put(request()).is_ok());
    assert!(tokens.put(request()).is_err());
    tokio::time::advance(LIFETIME).await;
    assert!(tokens.put(request()).is_ok());
    assert_eq!(tokens.waiting.lock().len(), 1, "the expired are gone");
}

#[tokio::test(start_paused = true)]
async fn commands_that_wait_for_their_clients_have_64_mib_together() {
    let command = |bytes: usize| {
        let (sandbox, container, command) = (SandboxId::random(), ContainerId::random(), vec!["x".repeat(bytes)]);
        PendingRequest::Exec(Exec { sandbox, container, command, tty: false, stdin: false, stdout: true, stderr: true })
    };
    let tokens = Tokens::default();
    let first = tokens.put(command(6 << 20)).unwrap();
    for _ in 1..10 {
        tokens.put(command(6 << 20)).unwrap();
    }
    assert!(tokens.put(command(6 << 20)).is_err());
    assert!(tokens.put(request()).is_ok() && tokens.put(command(100)).is_ok());
    assert!(redeem(&tokens, &first).is_some());
    assert!(tokens.put(command(6 << 20)).is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_a_token_is_none() {
    let tokens = Tokens::default();
    let token = tokens.put(request()).unwrap();
    for wrong in
        ["", "guess", &token[1..], &format!("{token}="), &format!("{token}A"), &"é".repeat(11), &"/".repeat(22)]
    {
        assert!(redeem(&tokens, wrong).is_none(), "{wrong}");
    }
    // The last of the 22 characters encodes four bits that are 0 in every token: a spelling with other bits is not the
    // token.
    let last = token.chars().last().unwrap();
    let other = char::from_u32(u32::from(last) + 1).unwrap();
    assert!(redeem(&tokens, &format!("{}{other}", &token[..LENGTH - 1])).is_none());
    assert!(redeem(&tokens, &token).is_some());
}

#[tokio::test(start_paused = true)]
async fn t6_urls_of_one_pod_leave_as_many_to_others() {
    let tokens = Tokens::default();
    let one = request();
    let put = |request: &PendingRequest| tokens.put(request.clone());
    let mut of_one: Vec<String> = (0..MOST / 2).map(|_| put(&one).unwrap()).collect();
    assert!(put(&one).is_err());
    let other = put(&request()).unwrap();
    assert!(redeem(&tokens, &other).is_some());
    assert!(redeem(&tokens, &of_one.pop().unwrap()).is_some());
    assert!(put(&one).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_token_whose_session_may_not_begin_stays() {
    let tokens = Tokens::default();
    let token = tokens.put(request()).unwrap();
    assert!(matches!(tokens.redeem(&token, |_| None::<()>), Err(RedeemError::NoSlot)));
    assert!(redeem(&tokens, &token).is_some());
    assert!(matches!(tokens.redeem(&token, |_| Some(())), Err(RedeemError::Unknown)));
}
