/** The plain filter: one entry for each request, made when its stream ends. */
import "./abort";

export * from "./plugin";
