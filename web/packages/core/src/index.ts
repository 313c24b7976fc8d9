/**
 * Everything a Zynk client needs besides its looks: the server's API, devices, a preview, a call as an
 * observable store, and words for every failure. No UI framework is imported here.
 *
 * ```ts
 * const api = new ServerApi(location.origin);
 * const call = new Call(api, request);
 * call.state.subscribe(() => render(call.state.get()));
 * const failure = await call.start(() => preview.take());
 * ```
 */
export * from './access-token';
export * from './call';
export * from './call-failure';
export * from './device-failure';
export * from './devices';
export * from './failure';
export * from './grid';
export * from './level';
export * from './names';
export * from './participants';
export * from './preferences';
export * from './preview';
export * from './server';
export * from './store';
