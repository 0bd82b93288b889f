// A typed client of the API of a Gwanje tenant, for Node 20 and newer and for browsers.

import createClient, { type Client } from "openapi-fetch";
import { EventSourceParserStream } from "eventsource-parser/stream";
import type { components, paths } from "./generated.js";

export type { components, paths } from "./generated.js";
export type Schemas = components["schemas"];
export type Gwanje = Client<paths>;

export interface Options {
  /** Seconds until a try without an answer is given up. */
  timeout?: number;
  /** How often a request is tried. */
  tries?: number;
}

/** The API refused a request. `code` is the stable cause; `errors` name the members and parameters at fault. */
export class ApiProblem extends Error {
  readonly code: string;
  readonly title: string;
  readonly detail: string;
  readonly errors: { code: string; detail: string; pointer?: string; parameter?: string }[];

  constructor(
    readonly status: number,
    document: unknown,
  ) {
    const said = (document !== null && typeof document === "object" ? document : {}) as Record<string, any>;
    super(`${status} ${said["code"] ?? ""}: ${said["detail"] ?? said["title"] ?? ""}`);
    this.code = said["code"] ?? "";
    this.title = said["title"] ?? "";
    this.detail = said["detail"] ?? "";
    this.errors = said["errors"] ?? [];
  }
}

const connections = new WeakMap<object, { base: string; send: (request: Request) => Promise<Response> }>();

/**
 * A client of a tenant: `baseUrl` as `https://host/t/slug` or `https://slug.host`.
 *
 * Lost requests and answers, 429, and 502 to 504 are repeated, each POST under one `Idempotency-Key`.
 */
export function connect(baseUrl: string, apiKey: string, { timeout = 30, tries = 6 }: Options = {}): Gwanje {
  const base = baseUrl.replace(/\/+$/, "");
  const send = async (request: Request): Promise<Response> => {
    request.headers.set("Authorization", `Bearer ${apiKey}`);
    if (request.method === "POST" && !request.headers.has("Idempotency-Key")) {
      request.headers.set("Idempotency-Key", crypto.randomUUID());
    }
    for (let number = 1; ; number++) {
      const isLast = number >= tries;
      let seconds = pause(number);
      try {
        const response = await fetch(request.clone(), { signal: AbortSignal.timeout(1000 * timeout) });
        if (isLast || !isToBeRepeated(response)) return response;
        await response.body?.cancel();
        seconds = retryAfter(response) ?? seconds;
      } catch (error) {
        if (isLast) throw error;
      }
      await sleep(seconds);
    }
  };
  const client = createClient<paths>({ baseUrl: base, fetch: send });
  connections.set(client, { base, send });
  return client;
}

interface Answer<T> {
  data?: T;
  error?: unknown;
  response: Response;
}

/** The body of a successful answer. Throws `ApiProblem` on any other. */
export function unwrap<T>(answer: Answer<T>): T {
  if (!answer.response.ok) throw new ApiProblem(answer.response.status, answer.error);
  return answer.data as T;
}

interface Page<T> {
  results: T[];
  next: string | null;
}

/** The results of all pages of a list, of which `first` is the request of the first page. */
export async function* pages<T>(client: Gwanje, first: Promise<Answer<Page<T>>>): AsyncGenerator<T> {
  let page = unwrap(await first);
  yield* page.results;
  while (page.next !== null) {
    page = await read(client, page.next);
    yield* page.results;
  }
}

interface ChangesPage<T> {
  results: T[];
  next: string;
  has_more: boolean;
  complete: boolean;
}

/**
 * The pages of a feed until it is at its end. `first` is the request of the first page or, to go on, the `next` of the
 * last page that was kept. Store each page's results and its `next` in one transaction.
 */
export async function* changes<T>(
  client: Gwanje,
  first: Promise<Answer<ChangesPage<T>>> | string,
): AsyncGenerator<ChangesPage<T>> {
  let page: ChangesPage<T> = typeof first === "string" ? await read(client, first) : unwrap(await first);
  yield page;
  while (page.has_more) {
    page = await read(client, page.next);
    yield page;
  }
}

export interface Event {
  id: string;
  name: string;
  data: any;
}

/** The events of a stream, which is resumed where a connection ends. Throws `ApiProblem` when it is refused. */
export async function* events(
  client: Gwanje,
  filters: Record<string, string | string[]> = {},
  path = "/api/v1/readings/stream/",
  lastEventId = "",
): AsyncGenerator<Event> {
  const { base, send } = connectionOf(client);
  const query = new URLSearchParams(
    Object.entries(filters).flatMap(([name, value]) => [value].flat().map((each): [string, string] => [name, each])),
  );
  for (;;) {
    const headers: Record<string, string> = { Accept: "text/event-stream" };
    if (lastEventId) headers["Last-Event-ID"] = lastEventId;
    const response = await send(new Request(`${base}${path}?${query}`, { headers }));
    if (!response.ok) throw new ApiProblem(response.status, await bodyOf(response));
    try {
      const parsed = response.body!.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream());
      for await (const event of parsed) {
        lastEventId = event.id ?? lastEventId;
        yield { id: event.id ?? "", name: event.event ?? "message", data: event.data ? JSON.parse(event.data) : null };
      }
    } catch (error) {
      if (error instanceof SyntaxError) throw error;
    }
    await sleep(1);
  }
}

/** The page at an address that another page named. Only its path is used, so no other server gets the key. */
async function read<T>(client: Gwanje, address: string): Promise<T> {
  const { base, send } = connectionOf(client);
  const { pathname, search } = new URL(address);
  const response = await send(new Request(new URL(`${pathname}${search}`, base)));
  const body = await bodyOf(response);
  if (!response.ok) throw new ApiProblem(response.status, body);
  return body as T;
}

function connectionOf(client: Gwanje) {
  const connection = connections.get(client);
  if (connection === undefined) throw new TypeError("The client was not made by connect().");
  return connection;
}

async function bodyOf(response: Response): Promise<unknown> {
  const text = await response.text();
  try {
    return JSON.parse(text);
  } catch {
    return { detail: text.slice(0, 500) };
  }
}

function isToBeRepeated(response: Response): boolean {
  // Other conflicts have no Retry-After: they remain.
  if (response.status === 409) return response.headers.has("Retry-After");
  return [429, 502, 503, 504].includes(response.status);
}

function retryAfter(response: Response): number | undefined {
  const header = response.headers.get("Retry-After");
  const seconds = header === null ? NaN : Number(header);
  return Number.isFinite(seconds) ? Math.min(seconds, 60) : undefined;
}

function pause(number: number): number {
  return Math.min(0.25 * 2 ** number, 60) * (0.8 + 0.4 * Math.random());
}

function sleep(seconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
}
