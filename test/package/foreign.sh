#!/usr/bin/env bash
# Packs forktree, installs the package into an empty project, and runs README's first program there: with the usual
# modes, with a strict umask, and with the execute bits lost. No install script runs and nothing is compiled.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

(cd "$root" && npm pack --silent --pack-destination "$out" >/dev/null)
tar -tzf "$out"/forktree-*.tgz | sed 's|^package/||' | sort >"$out/files"
for file in dist/index.js dist/index.d.ts dist/cli/main.js src/guest/zygote.py README.md LICENSE.md; do
	grep -qx "$file" "$out/files" || { echo "FAIL the package lacks $file"; exit 1; }
done
for file in forktree.node guest.node init keeper; do
	grep -q "^prebuilds/linux-[a-z0-9]*-[a-z]*/$file\$" "$out/files" || { echo "FAIL the package lacks the prebuilt $file"; exit 1; }
done
if grep -E '^(test|bench|examples|docs|build|native/tests|src/[^g]|\.)|__pycache__' "$out/files"; then
	echo 'FAIL the package holds files that it does not need'
	exit 1
fi
echo "ok   $(wc -l <"$out/files") files"

program() {
	awk '/^```js$/ {on = 1; next} /^```$/ && on {exit} on' "$root/README.md"
}

project() {
	mkdir "$out/$1"
	cd "$out/$1"
	echo '{"name": "foreign", "private": true, "type": "module"}' >package.json
	# Without a compiler in reach, an attempt to build would fail.
	CXX=/bin/false CC=/bin/false npm install --silent --no-audit --no-fund "$out"/forktree-*.tgz
	[ ! -e node_modules/forktree/build ] || { echo 'FAIL installing has compiled something'; exit 1; }
	! grep -q hasInstallScript package-lock.json || { echo 'FAIL something has an install script'; exit 1; }
	program >main.js
}

check() {
	local said
	said=$(node main.js)
	if [ "$said" != 'hello world' ]; then
		echo "FAIL $1: expected 'hello world', got '$said'"
		exit 1
	fi
	echo "ok   $1"
}

project usual
check "README's first program"
[ "$(npx --no-install forktree --version)" = "$(node -p "require('$root/package.json').version")" ]
echo 'ok   the command'
(
	umask 077
	project strict
	chmod 0600 node_modules/forktree/prebuilds/*/*
	chmod 0700 "$out"
	check 'strict umask and no execute bits'
)
[ -z "$(find "$out"/*/node_modules/forktree -newer "$out/strict/main.js" -type f)" ] || { echo 'FAIL the program wrote into its package'; exit 1; }
echo 'ok   the package stays as it was installed'
