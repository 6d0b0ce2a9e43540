#!/usr/bin/env bash
# curl, by HTTP/1.1 and as it asks for HTTP/2.
set -uo pipefail

tried() {
  local name=$1 wanted=$2
  shift 2
  local got
  if got=$(curl -sS --max-time 20 -H "Authorization: Bearer $OPENAI_API_KEY" "$@" 2>&1) && [[ $got == *"$wanted"* ]]; then
    echo "ok $name"
  else
    echo "failed $name: ${got//$'\n'/ }" | cut -c 1-300
  fi
}

chat='{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}'
stream='{"model": "gpt-4o-mini", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}'
json=(-H "Content-Type: application/json")

tried "GET" gpt-4o-mini "$OPENAI_BASE_URL/models"
tried "POST" "Simulated answer" "${json[@]}" -d "$chat" "$OPENAI_BASE_URL/chat/completions"
tried "POST of a stream" "[DONE]" -N "${json[@]}" -d "$stream" "$OPENAI_BASE_URL/chat/completions"
tried "GET with --http2" gpt-4o-mini --http2 "$OPENAI_BASE_URL/models"
tried "POST with --http2" "Simulated answer" --http2 "${json[@]}" -d "$chat" "$OPENAI_BASE_URL/chat/completions"
tried "form with --http2" '"object":"file"' --http2 -F purpose=assistants -F "file=@$0;filename=a.txt" "$OPENAI_BASE_URL/files"
