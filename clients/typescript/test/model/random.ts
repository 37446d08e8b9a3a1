/** Random numbers that are the same for the same seed: mulberry32. */
export class Random {
  constructor(private state: number) {}

  /** From 0 up to 1. */
  next = (): number => {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let it = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    it = (it + Math.imul(it ^ (it >>> 7), 61 | it)) ^ it;
    return ((it ^ (it >>> 14)) >>> 0) / 2 ** 32;
  };

  /** A whole number from 0 up to `below`. */
  below = (below: number): number => Math.floor(this.next() * below);

  is = (probability: number): boolean => this.next() < probability;

  pick = <T>(items: readonly T[]): T => items[this.below(items.length)]!;
}
