// The tasks of python_tasks.py, with the same variables and output.

import { randomUUID } from "node:crypto";
import { ApiProblem, changes, connect, events, pages, unwrap } from "gwanje-client";

const done: Record<string, unknown> = {};
const { GWANJE_URL, GWANJE_KEY, GWANJE_DEVICE, UNSTEADY_URL } = process.env as Record<string, string>;
const client = connect(GWANJE_URL!, GWANJE_KEY!);
const device = GWANJE_DEVICE!;
const mark = randomUUID().slice(0, 8);
const daysAgo = (days: number) => new Date(Date.now() - days * 86_400_000).toISOString();

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const collected: T[] = [];
  for await (const item of items) collected.push(item);
  return collected;
}

async function problemOf(request: () => Promise<unknown>): Promise<[number, string] | undefined> {
  try {
    await request();
  } catch (error) {
    if (error instanceof ApiProblem) return [error.status, error.code];
    throw error;
  }
  return undefined;
}

done["who am I"] = unwrap(await client.GET("/api/v1/whoami/")).tenant;

// A component type with a metric.
const kind = unwrap(await client.POST("/api/v1/component-types/", { body: { key: `t${mark}`, name: "Thermometer" } }));
unwrap(
  await client.POST("/api/v1/metrics/", {
    body: { component_type: kind.key, key: "temperature", path: "temp", unit: "°C" },
  }),
);
const types = await all(pages(client, client.GET("/api/v1/component-types/")));
done["a metric of a new component type"] = types.some((each) => each.key === kind.key);

// A registration that is repeated under its key is carried out once.
const key = randomUUID();
const register = async () =>
  unwrap(
    await client.POST("/api/v1/devices/", {
      params: { header: { "Idempotency-Key": key } },
      body: { name: `greenhouse ${mark}` },
    }),
  );
const [first, second] = [await register(), await register()];
done["a device registered once"] = first.uuid === second.uuid;

const devices = await all(pages(client, client.GET("/api/v1/devices/", { params: { query: { limit: 2 } } })));
done["all devices, two a page"] = devices.map((each) => each.uuid);

// An edit that does not overwrite the edit of another.
const path = { uuid: first.uuid };
const { response } = await client.GET("/api/v1/devices/{uuid}/", { params: { path } });
const rename = async (name: string) =>
  unwrap(
    await client.PATCH("/api/v1/devices/{uuid}/", {
      params: { path, header: { "If-Match": response.headers.get("ETag")! } },
      body: { name },
    }),
  );
await rename(`house ${mark}`);
done["an edit of what was changed meanwhile"] = await problemOf(() => rename("another"));

const latest = unwrap(await client.GET("/api/v1/devices/{uuid}/latest/", { params: { path: { uuid: device } } }));
done["newest values"] = Object.fromEntries(
  latest.results.map((each) => [`${each.component} ${each.metric}`, each.value]),
);

const values = pages(
  client,
  client.GET("/api/v1/readings/", {
    params: { query: { device, component: "dht22", metric: "temperature", from: daysAgo(1), limit: 2 } },
  }),
);
done["readings of a day"] = (await all(values)).map((each) => each.value);

const aggregates = unwrap(
  await client.GET("/api/v1/readings/aggregates/", {
    params: {
      query: {
        device: [device],
        metric: ["temperature"],
        interval: "1d",
        aggregate: ["count", "max"],
        from: daysAgo(2),
      },
    },
  }),
);
done["highest of a day"] = Math.max(...aggregates.series.flatMap((one) => one.results.map((each) => Number(each.max))));

// A mirror, stopped and resumed.
const copied: unknown[] = [];
let address = "";
for await (const page of changes(client, client.GET("/api/v1/readings/changes/", { params: { query: { limit: 2 } } }))) {
  copied.push(...page.results.filter((each) => each.device === device).map((each) => each.value));
  address = page.next;
}
done["a mirror"] = copied;
done["nothing new for the mirror"] = (await all(changes(client, address))).flatMap((page) => page.results).length;

for await (const event of events(client, { device })) {
  done["a stream"] = [event.name, event.data.map((each: { value: unknown }) => each.value)];
  break;
}

const history = unwrap(await client.GET("/api/v1/devices/{uuid}/history/", { params: { path: { uuid: device } } }));
done["why the device is where it is"] = history.results.map((each) => each.to);

const [refused] = await all(pages(client, client.GET("/api/v1/quarantine/", { params: { query: { device } } })));
let replay = unwrap(
  await client.POST("/api/v1/quarantine/replays/", { body: { device, reason: refused!.reason } }),
);
for (let tries = 0; tries < 600 && !["done", "cancelled"].includes(replay.state); tries++) {
  await new Promise((resolve) => setTimeout(resolve, 200));
  replay = unwrap(await client.GET("/api/v1/quarantine/replays/{id}/", { params: { path: { id: replay.id } } }));
}
done["a replay"] = [replay.state, replay.total];

const exported = await client.GET("/api/v1/readings/export/", {
  params: { query: { device: [device], format: "csv", from: daysAgo(1) } },
  parseAs: "text",
});
done["an export"] = String(exported.data).trimEnd().split("\n").length;

done["what does not exist"] = await problemOf(async () =>
  unwrap(await client.GET("/api/v1/devices/{uuid}/", { params: { path: { uuid: randomUUID() } } })),
);

// Lost answers are requested again, under one key.
const unsteady = connect(UNSTEADY_URL!, "a-key");
const answered = await unsteady.POST("/api/v1/devices/", { body: { name: "any" } });
done["an unsteady server"] = answered.response.status;

console.log(JSON.stringify(done));
process.exit(0);
