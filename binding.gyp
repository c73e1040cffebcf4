{
	"target_defaults": {
		"cflags": ["-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"],
		"cflags_cc": ["-std=c++17"],
		"cflags_cc!": ["-std=gnu++17", "-std=gnu++20"]
	},
	"targets": [
		{
			"target_name": "forktree",
			"sources": ["native/addon/accept.cc", "native/addon/addon.cc", "native/addon/endpoint.cc", "native/addon/groups.cc", "native/addon/pages.cc", "native/addon/process.cc", "native/addon/profile.cc", "native/addon/relay.cc", "native/addon/tree.cc"],
			"include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
			"defines": ["NAPI_VERSION=9", "NAPI_DISABLE_CPP_EXCEPTIONS"],
			# Without the unused parts of libstdc++, which would ask for a newer glibc than we do.
			"cflags": ["-ffunction-sections"],
			"ldflags": ["-static-libstdc++", "-static-libgcc", "-Wl,--gc-sections", "-Wl,--exclude-libs,ALL"]
		},
		{
			"target_name": "keeper",
			"type": "executable",
			"sources": [
				"native/keeper/assemble.cc",
				"native/keeper/idmap.cc",
				"native/keeper/keeper.cc",
				"native/keeper/message.cc",
				"native/keeper/plan.cc",
				"native/keeper/probe.cc",
				"native/keeper/root.cc",
				"native/keeper/system.cc",
				"native/keeper/writable.cc"
			],
			"cflags": ["-ffunction-sections"],
			"ldflags": ["-static-libstdc++", "-static-libgcc", "-Wl,--gc-sections"],
			"ldflags!": ["-rdynamic"]
		},
		{
			"target_name": "init",
			"type": "executable",
			"sources": ["native/guest/init.cc"],
			"cflags": ["-ffreestanding", "-fno-stack-protector", "-fcf-protection=none", "-fno-pie"],
			"ldflags": ["-nostdlib", "-static", "-no-pie"],
			"ldflags!": ["-rdynamic"]
		},
		{
			"target_name": "launcher",
			"type": "executable",
			"sources": ["native/guest/program.cc", "native/guest/launcher.cc", "native/guest/network.cc", "native/guest/setup.cc", "native/guest/landlock.cc", "native/guest/supervisor.cc", "native/guest/freestanding.cc"],
			"cflags": ["-ffreestanding", "-fno-stack-protector", "-fcf-protection=none", "-fno-pie"],
			"ldflags": ["-nostdlib", "-static", "-no-pie"],
			"ldflags!": ["-rdynamic"]
		},
		{
			# A plain shared library without Node-API; node-gyp names every loadable module .node.
			"target_name": "guest",
			"type": "loadable_module",
			"sources": ["native/guest/guest.cc", "native/guest/launcher.cc", "native/guest/network.cc", "native/guest/setup.cc", "native/guest/landlock.cc", "native/guest/spare.cc", "native/guest/memory.cc", "native/guest/freestanding.cc"],
			"cflags": ["-ffreestanding", "-fno-stack-protector", "-fcf-protection=none", "-fPIC", "-fvisibility=default"],
			"ldflags": ["-nostdlib"],
			"ldflags!": ["-rdynamic"]
		}
	]
}
